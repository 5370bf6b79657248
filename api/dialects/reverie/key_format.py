"""How the secrets of reverie's keys look."""

from ledger.secrets import BASE62, Format

FORMATS = (Format("reverie", "rk_", BASE62, 30, checked=True),)
