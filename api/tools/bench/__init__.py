"""Measures speed, size and memory, each figure beside a peer's from the same run.

Nothing here is used by the service. ``rounds`` says what is measured in which order, ``table`` what
it is held to.
"""
