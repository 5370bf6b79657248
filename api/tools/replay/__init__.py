"""Recorded traffic, sent again to a running service: traces, who sends, how it is sent."""
