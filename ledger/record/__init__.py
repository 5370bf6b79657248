"""Bytes: the writer, what it stores, and the checker. psycopg only here and in ``server``."""
