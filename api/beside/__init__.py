"""Rows that are no fold of events: characters, conversations, stored resources."""
