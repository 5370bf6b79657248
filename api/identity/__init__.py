"""Finds out who asks: roles, logins, sign-up, wallets, credentials."""
