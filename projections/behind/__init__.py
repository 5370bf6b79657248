"""Projections that catch up, lane by lane."""
