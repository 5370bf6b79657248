"""Rows that are no fold of events: characters, conversations, stored resources.

Rules stand in ``characters`` (what one may say of itself), ``shelf`` and ``conversations``; tables
and their statements beside them in ``*_rows``.
"""
