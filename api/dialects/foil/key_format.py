"""How the secrets of foil's keys look."""

from ledger.secrets import HEX, Format

FORMATS = (Format("foil", "pk_live_", HEX, 32, checked=False),)
