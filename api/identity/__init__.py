"""Who asks: roles, logins, sign-up, wallets, credentials."""
