"""Settings from the environment, and the secrets that a data directory keeps for itself.

Several hosts on one database share pepper and signing secret through the environment; where they
are unset, the first start makes them and keeps them in the data directory, readable by its owner
only. Nothing here connects to anything.
"""

import hashlib
import os
import secrets as random
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ledger.money import Amount, InvalidAmount, parse_amount
from ledger.secrets import Peppers

PORT_MAX = 65_535
WORKERS_MAX = 64
PEPPER_BYTES = 32


class InvalidSetting(ValueError):
    """A setting is wrong; the message names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says. ``VARIABLES`` documents each."""

    home: Path = Path(".keyledger")
    database_url: str = ""
    admin_secret: str = ""
    pepper: str = ""
    jwt_secret: str = ""
    welcome_grant: str = "5 USD"
    lanes: int = 2
    host: str = "127.0.0.1"
    port: int = 8321
    workers: int = 1
    upstream_url: str = ""
    upstream_key: str = ""

    @property
    def welcome(self) -> Amount | None:
        """Give the credit of a new account; None: none."""
        return parse_amount(self.welcome_grant) if self.welcome_grant not in {"", "0"} else None


VARIABLES: Mapping[str, str] = {
    "KEYLEDGER_HOME": "Data directory; default .keyledger in the working directory.",
    "KEYLEDGER_DATABASE_URL": "PostgreSQL to use; unset: an embedded one in the data directory.",
    "KEYLEDGER_ADMIN_SECRET": "The operator's secret; unset: made at first start, printed once.",
    "KEYLEDGER_PEPPER": "Key-hash pepper; several as 1:<text>,2:<text>; unset: made and kept.",
    "KEYLEDGER_JWT_SECRET": "Signs members' tokens, 32 characters or more; unset: made and kept.",
    "KEYLEDGER_WELCOME_GRANT": 'Credit of a new account, such as "5 USD"; 0: none.',
    "KEYLEDGER_LANES": "Lanes of a database about to be created; fixed from then on; default 2.",
    "KEYLEDGER_HOST": "Address to listen on; default 127.0.0.1.",
    "KEYLEDGER_PORT": "Port to listen on; default 8321; 0: any that is free.",
    "KEYLEDGER_WORKERS": "Worker processes; default 1. More pay where there are more processors.",
    "KEYLEDGER_UPSTREAM_URL": "OpenAI-compatible service behind the gateway; unset: a sample.",
    "KEYLEDGER_UPSTREAM_KEY": "What the gateway shows to that service.",
}
"""Every variable there is; ``keyledger serve --help`` lists them."""


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        InvalidSetting: One is wrong.
    """
    get = environment.get
    settings = Settings(
        home=Path(get("KEYLEDGER_HOME") or ".keyledger"),
        database_url=get("KEYLEDGER_DATABASE_URL", ""),
        admin_secret=get("KEYLEDGER_ADMIN_SECRET", ""),
        pepper=get("KEYLEDGER_PEPPER", ""),
        jwt_secret=get("KEYLEDGER_JWT_SECRET", ""),
        welcome_grant=get("KEYLEDGER_WELCOME_GRANT", "5 USD"),
        lanes=_whole(environment, "KEYLEDGER_LANES", 2, 1, 4096),
        host=get("KEYLEDGER_HOST", "127.0.0.1"),
        port=_whole(environment, "KEYLEDGER_PORT", 8321, 0, PORT_MAX),
        workers=_whole(environment, "KEYLEDGER_WORKERS", 1, 1, WORKERS_MAX),
        upstream_url=get("KEYLEDGER_UPSTREAM_URL", ""),
        upstream_key=get("KEYLEDGER_UPSTREAM_KEY", ""),
    )
    try:
        _ = settings.welcome
    except InvalidAmount as error:
        message = f"KEYLEDGER_WELCOME_GRANT: {error}"
        raise InvalidSetting(message) from error
    if settings.jwt_secret and len(settings.jwt_secret) < PEPPER_BYTES:
        message = f"KEYLEDGER_JWT_SECRET must have {PEPPER_BYTES} characters or more."
        raise InvalidSetting(message)
    return settings


def _whole(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or not low <= int(text) <= high:
        message = f"{name} must be a whole number, {low} to {high}."
        raise InvalidSetting(message)
    return int(text)


def peppers(settings: Settings) -> Peppers:
    """Give the peppers, making and keeping one where the environment names none.

    Raises:
        InvalidSetting: A version is no number, or a pepper is empty.
    """
    if not settings.pepper:
        return Peppers({1: kept(settings.home, "pepper").encode()})
    if ":" not in settings.pepper:
        return Peppers({1: settings.pepper.encode()})
    found: dict[int, bytes] = {}
    for part in settings.pepper.split(","):
        version, _, text = part.strip().partition(":")
        if not version.isdecimal() or not 1 <= int(version) <= 999 or not text:  # noqa: PLR2004
            raise InvalidSetting("KEYLEDGER_PEPPER: several are written 1:<text>,2:<text>.")
        found[int(version)] = text.encode()
    return Peppers(found)


def jwt_secret(settings: Settings) -> str:
    """Give what members' tokens are signed with, making and keeping one where none is set."""
    return settings.jwt_secret or kept(settings.home, "jwt-secret")


def kept(home: Path, name: str) -> str:
    """Read a secret of the data directory, or make it: 32 random bytes, mode 0600.

    Safe when several processes start at once: one file wins, all read it.
    """
    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    place = home / name
    if not place.exists():
        fresh = home / f".{name}.{random.token_hex(8)}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(random.token_urlsafe(PEPPER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, place)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return place.read_text("ascii").strip()


def digest(secret: str) -> bytes:
    """Give what the operator's secret is compared by."""
    return hashlib.sha256(secret.encode()).digest()
