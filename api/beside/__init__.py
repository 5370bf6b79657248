"""Rows that are not derived from events: characters, conversations, stored resources.

The rules are in ``characters`` (what its texts may hold), ``shelf`` and ``conversations``; tables
and their statements are next to them in ``*_rows``.
"""
