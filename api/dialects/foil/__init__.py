"""foil: personas of a game. Keys are managed by login, used in ``X-API-Key``; calls are counted."""
