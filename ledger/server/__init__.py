"""The database itself: connecting, embedding, migrating."""
