"""The doors of the ledger, and the processes behind them.

Whatever process imports anything of this knows how the secrets of every dialect's keys look, so
that none of them is ever written down.
"""

import importlib
import pkgutil

from ledger import secrets


def _know_key_formats() -> None:
    for found in pkgutil.iter_modules([f"{__path__[0]}/dialects"]):
        if found.ispkg:
            secrets.know(importlib.import_module(f"api.dialects.{found.name}.key_format").FORMATS)


_know_key_formats()
