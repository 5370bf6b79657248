"""Key secrets: their formats, their checksum, and the keyed hash that is stored.

A secret exists in the reply that shows it once and in the caller's hands. Only its
HMAC-SHA-256 under a versioned pepper is stored (ASVS 11.5.1 asks for 128 random bits; each has
them).
"""

import hashlib
import hmac
import json
import re
import secrets as random
import zlib
from collections.abc import Iterable
from typing import NamedTuple

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHECKSUM_LENGTH = 6
SECRET_MAX = 128
SALT_BYTES = 16


class Format(NamedTuple):
    """How the secrets of one kind of key look."""

    dialect: str
    prefix: str
    alphabet: str
    length: int
    """Random characters."""
    checked: bool
    """Whether a CRC-32 checksum in base62 follows them."""


HEX = "0123456789abcdef"
FORMATS: list[Format] = []
"""Of every dialect that this process knows; see ``know``."""
OPERATOR_PREFIX, REFRESH_PREFIX = "admin_", "refresh_"
"""Of the operator's secret where we make it, and of refresh tokens; 43 characters follow."""
_OURS = (
    rf"(?:{OPERATOR_PREFIX}|{REFRESH_PREFIX})[0-9A-Za-z_-]{{43}}"
    r"|eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{16,}"
)
TRUNCATED_MIN = 36
"""A longer secret is found even where only so many of its characters are."""
REDACTED = "[redacted]"
PERHAPS_LENGTH = 32
"""Characters that follow the prefix of any key's secret, at least."""
KNOWN_MIN = 16
"""Shorter secrets of the settings, such as ``none``, are words that text may hold."""


class _Watch:
    """Secrets that this process looks for."""

    def __init__(self) -> None:
        self.pattern: re.Pattern[str]
        """Finds whatever has the form of a secret: of a key, of the operator, of a login, a JWT."""
        self.perhaps: re.Pattern[str]
        """Finds each whose prefix ends in ``_``, and more. A literal comes first, which is fast."""
        self.marks: tuple[str, ...]
        """Texts of which one is in whatever holds a secret that ``perhaps`` does not find."""
        self.known: tuple[str, ...] = ()
        """Those without a form of their own, as they are and as JSON writes them."""
        self.compile()

    def add(self, values: Iterable[str]) -> None:
        long = [value for value in values if len(value) >= KNOWN_MIN]
        written = [json.dumps(value, ensure_ascii=False)[1:-1] for value in long]
        self.known = tuple(dict.fromkeys((*self.known, *long, *written)))
        self.compile()

    def compile(self) -> None:
        words = map(re.escape, sorted(self.known, key=len, reverse=True))
        forms = (_pattern_of(form) for form in FORMATS)
        self.pattern = re.compile("|".join((*forms, _OURS, *words)))
        prefixes = {OPERATOR_PREFIX, REFRESH_PREFIX, *(form.prefix for form in FORMATS)}
        ends = "".join(sorted({prefix[-2] for prefix in prefixes if prefix.endswith("_")}))
        self.perhaps = re.compile(rf"_(?<=[{ends}]_)[0-9A-Za-z_-]{{{PERHAPS_LENGTH}}}")
        others = (prefix for prefix in prefixes if not prefix.endswith("_"))
        self.marks = ("eyJ", *others, *self.known)


def _pattern_of(form: Format) -> str:
    whole = form.length + (CHECKSUM_LENGTH if form.checked else 0)
    least = min(whole, TRUNCATED_MIN)
    return f"{re.escape(form.prefix)}[{form.alphabet}]{{{least},{whole}}}"


_watch = _Watch()


def know(formats: Iterable[Format]) -> None:
    """Take in how the secrets of a dialect's keys look, so that they are found and made."""
    FORMATS.extend(form for form in formats if form not in FORMATS)
    assert all(
        form.length >= PERHAPS_LENGTH or not form.prefix.endswith("_") or form.checked
        for form in FORMATS
    )
    _watch.compile()


def dialects() -> list[str]:
    """Name the dialects whose keys this process knows."""
    return list(dict.fromkeys(form.dialect for form in FORMATS))


def keep_out(values: Iterable[str]) -> None:
    """Have the secrets of this process's settings found too, which have no form of their own."""
    _watch.add(values)


def is_in(text: str) -> bool:
    """Return whether a text holds a secret: in a microsecond where it does not."""
    if _watch.perhaps.search(text) is None:
        for mark in _watch.marks:
            if mark in text:
                break
        else:
            return False
    return _watch.pattern.search(text) is not None


def redacted(text: str) -> str:
    """Return a text with every secret in it replaced."""
    return _watch.pattern.sub(REDACTED, text)


def format_of(dialect: str, *, admin: bool = False) -> Format:
    """Find the format of a dialect's secrets; ``admin`` chooses the second where it has one."""
    matching = [found for found in FORMATS if found.dialect == dialect]
    return matching[-1 if admin else 0]


def generate(form: Format) -> str:
    """Make a secret; every character is drawn without modulo bias."""
    body = "".join(random.choice(form.alphabet) for _ in range(form.length))
    return form.prefix + body + (checksum(body) if form.checked else "")


def checksum(body: str) -> str:
    """Return the CRC-32 of the random part in base62, left-padded with ``0`` to six."""
    rest = zlib.crc32(body.encode())
    digits = ""
    while rest:
        rest, digit = divmod(rest, 62)
        digits = BASE62[digit] + digits
    return digits.rjust(CHECKSUM_LENGTH, "0")


def recognise(secret: str) -> Format | None:
    """Return a well-formed secret's format; None: mistyped or not ours, no look-up needed."""
    for form in FORMATS:
        if secret.startswith(form.prefix):
            return form if _well_formed(form, secret[len(form.prefix) :]) else None
    return None


def _well_formed(form: Format, body: str) -> bool:
    end = form.length
    if len(body) != end + (CHECKSUM_LENGTH if form.checked else 0):
        return False
    if body.strip(form.alphabet):
        return False
    return not form.checked or checksum(body[:end]) == body[end:]


def digest(kind: str, *parts: bytes | str | int) -> str:
    """Bind a row of a side table to the event that made or changed it.

    Returns hexadecimal SHA-256 over the kind and the parts, each preceded by its length in four
    bytes, so that no two rows share their bytes; numbers are eight bytes, big-endian. The view
    ``side_rows`` does the same in SQL. Frozen by golden vectors.
    """
    hashed = hashlib.sha256()
    for part in (kind, *parts):
        written = part.to_bytes(8, signed=True) if isinstance(part, int) else part
        raw = written.encode() if isinstance(written, str) else written
        hashed.update(len(raw).to_bytes(4) + raw)
    return hashed.hexdigest()


def new_salt() -> bytes:
    """Return 16 random bytes that keep a digest from being guessed."""
    return random.token_bytes(SALT_BYTES)


def hint_of(secret: str) -> str:
    """Return what a list may show: the prefix with four characters, and the last six.

    Nothing of what is not a secret of ours: it may be short, or a password.
    """
    form = recognise(secret)
    return f"{secret[: len(form.prefix) + 4]}…{secret[-6:]}" if form else "…"


class Peppers:
    """The versioned keys under which secrets are hashed. The newest hashes; all verify."""

    def __init__(self, peppers: dict[int, bytes]) -> None:
        """Take peppers by version, 1 and up."""
        self._peppers = dict(sorted(peppers.items(), reverse=True))

    @property
    def current(self) -> int:
        """The version new secrets are hashed under."""
        return next(iter(self._peppers))

    @property
    def texts(self) -> list[str]:
        """Return the peppers themselves, to be kept out of whatever is written."""
        return [pepper.decode() for pepper in self._peppers.values()]

    def hash(self, secret: str) -> bytes:
        """Return the 32 bytes under which a new secret is stored."""
        return self._hash(self._peppers[self.current], secret)

    def candidates(self, secret: str) -> list[bytes]:
        """Return the hashes a presented secret may be stored under, newest pepper first."""
        return [self._hash(pepper, secret) for pepper in self._peppers.values()]

    def fingerprints(self) -> dict[int, bytes]:
        """Return what the database remembers of each pepper, to refuse a wrong one at start."""
        return {
            version: self._hash(pepper, "keyledger pepper check")
            for version, pepper in self._peppers.items()
        }

    @staticmethod
    def _hash(pepper: bytes, secret: str) -> bytes:
        return hmac.digest(pepper, secret.encode(), "sha256")
