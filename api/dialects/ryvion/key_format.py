"""How the secrets of ryvion's keys look."""

from ledger.secrets import BASE62, Format

FORMATS = (Format("ryvion", "ryv_", BASE62, 30, checked=True),)
