"""How the secrets of bve's keys look."""

from ledger.secrets import HEX, Format

FORMATS = (Format("bve", "sk-bve-", HEX, 64, checked=False),)
