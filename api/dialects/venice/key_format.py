"""How the secrets of venice's keys look."""

from ledger.secrets import BASE62, Format

FORMATS = (
    Format("venice", "VENICE_INFERENCE_KEY_", BASE62, 46, checked=True),
    Format("venice", "VENICE_ADMIN_KEY_", BASE62, 46, checked=True),
)
"""Of an ordinary key, and of one that manages the account's keys."""
