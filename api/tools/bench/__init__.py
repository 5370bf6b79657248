"""Measures what DESIGN §9 promises, each figure beside a peer's from the same run.

Nothing here is used by the service. ``command`` is the Click command, ``rounds`` says what is
measured in which order, ``table`` what it is held to.
"""
