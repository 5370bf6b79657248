"""What happened and what is allowed: events, decisions, the writer that appends them.

Imports point one way: ``api`` uses ``projections`` uses ``ledger``; nothing here knows of either.
"""
