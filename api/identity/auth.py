"""Finds out who asks, and what their role may do.

The operator shows a secret; a member shows a token that this module signed. A token says who they
are, never what they may do: the role is read from the ledger each time, so that a removal takes
effect at once.
"""

import asyncio
import hashlib
import hmac
import re
import secrets as random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from psycopg_pool import AsyncConnectionPool

from api.beside import login_rows
from api.http.failure import forbidden, invalid, unauthenticated
from api.identity.attempts import AttemptLimit, Attempts, site_of
from ledger.clock import DatabaseClock, Instant, microseconds
from ledger.codec import IS_SECRET
from ledger.errors import LoginIsTaken
from ledger.ids import AccountId, InvalidId, format_id, lane_of_account, new_request_id, parse_id
from ledger.secrets import REFRESH_PREFIX, is_in
from projections.inline import accounts

ISSUER = "keyledger"
AUDIENCE = "keyledger/ledger/v1"
ALGORITHM = "HS256"
ACCESS = timedelta(minutes=15)
REFRESH = timedelta(days=14)
PASSWORD_MIN = 8
PASSWORD_MAX = 128
EMAIL_MAX = 254
HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
"""As OWASP's cheat sheet on storing passwords asks of Argon2id, at least."""
HASHES_AT_ONCE = 2
"""Password hashes at once; each takes 19 MiB and a processor for some 20 ms."""

FAILURES_WINDOW = timedelta(minutes=5)
"""Short, because an owner whose password a stranger guesses at waits for it too."""
FAILURES_OF_A_LOGIN = 8
"""Per login, from anywhere: 96 an hour. OWASP's ASVS 4.0 (2.2.1) allows an account at most 100."""
FAILURES_OF_A_LOGIN_AT_A_SITE = 5
"""Per login and network: fewer, so that one stranger cannot lock out an owner elsewhere."""
FAILURES_AT_A_SITE = 30
"""Per network, over all logins: more than the people behind one address mistype."""

OPERATOR = "operator"
ROLES = ("owner", "finance", "auditor", "member")

_ALL = frozenset(ROLES)
_OWNER = frozenset({"owner"})
_READ = frozenset({"owner", "finance", "auditor"})
_KEYS = frozenset({"owner", "member"})
_NOBODY: frozenset[str] = frozenset()

PERMISSIONS: Mapping[str, frozenset[str]] = {
    "open_account": _NOBODY,
    "list_accounts": _NOBODY,
    "get_account": _ALL,
    "change_account": _NOBODY,
    "set_account_limits": _NOBODY,
    "suspend_account": _NOBODY,
    "resume_account": _NOBODY,
    "close_account": _NOBODY,
    "list_members": _READ,
    "add_member": _OWNER,
    "change_member": _OWNER,
    "remove_member": _OWNER,
    "issue_key": _KEYS,
    "list_keys": _ALL,
    "get_key": _ALL,
    "change_key": _KEYS,
    "rotate_key": _KEYS,
    "suspend_key": _KEYS,
    "resume_key": _KEYS,
    "revoke_key": _KEYS,
    "verify_key": _NOBODY,
    "grant": _NOBODY,
    "list_grants": _READ,
    "void_grant": _NOBODY,
    "adjust": _NOBODY,
    "set_allowance": _NOBODY,
    "list_allowances": _READ,
    "get_balances": _ALL,
    "get_spend": _READ,
    "list_events": _READ,
    "list_credit_ledger": _READ,
    "list_refusals": _READ,
    "record_usage": _NOBODY,
    "reserve_request": _NOBODY,
    "settle_request": _NOBODY,
    "release_request": _NOBODY,
    "get_request": _READ,
    "publish_rate_card": _NOBODY,
    "import_rate_card": _NOBODY,
    "list_rate_cards": _ALL,
    "get_rate_card": _ALL,
    "get_rate_card_version": _ALL,
    "diff_rate_cards": _ALL,
    "withdraw_rate_card": _NOBODY,
    "create_character": _KEYS,
    "list_characters": _ALL,
    "get_character": _ALL,
    "find_character": _ALL,
    "change_character": _KEYS,
    "publish_character": _KEYS,
    "withdraw_character": _KEYS,
    "delete_character": _KEYS,
    "note_chat": _KEYS,
    "get_recent_chat": _ALL,
    "list_lanes": _NOBODY,
    "list_lane_events": _NOBODY,
    "get_event": _NOBODY,
}
"""Operation → roles that may do it; the operator may do everything. Members act in their own
account only; the role ``member`` sees and changes only keys that they issued. Whoever grants credit
runs the service: a member who could grant would print money."""


ONLY_OWN_KEYS = frozenset({"member"})
"""Roles that see no keys but those they issued."""
KEY_MANAGERS = PERMISSIONS["issue_key"] - ONLY_OWN_KEYS
"""Roles that may make a key that manages the account's keys: only those who see all keys."""


class Caller(NamedTuple):
    """Who asks."""

    role: str
    actor: str
    """As events name it: ``operator``, or ``<role>:<member id>`` with the current role."""
    account_id: AccountId | None = None
    """None: every account."""
    member_id: str = ""

    @property
    def only_own_keys(self) -> str:
        """Return the only member whose keys are visible; empty: all keys of the account are."""
        return self.member_id if self.role in ONLY_OWN_KEYS else ""


THE_OPERATOR = Caller(OPERATOR, OPERATOR)


_CLAIMS: jwt.types.Options = {
    "require": ["exp", "iat", "sub", "jti", "aud", "iss", "acct"],
    # Checked by the ledger's clock instead; ``exp`` alone bounds a token.
    "verify_exp": False,
    "verify_iat": False,
}


def require_unexpired(claims: Mapping[str, Any], at: Instant) -> None:
    """Refuse the claims of an expired token.

    Raises:
        InvalidTokenError: ``exp`` has passed, or is not a number.
    """
    try:
        ends = int(claims["exp"])
    except (TypeError, ValueError) as error:
        raise jwt.DecodeError from error
    if microseconds(at) >= ends * 1_000_000:
        raise jwt.ExpiredSignatureError


def may(caller: Caller, operation: str) -> bool:
    """Return whether the caller's role allows an operation."""
    return caller.role == OPERATOR or caller.role in PERMISSIONS[operation]


class Tokens(NamedTuple):
    """The tokens that a login returns."""

    access_token: str
    expires_in: int
    refresh_token: str


class LoggedIn(NamedTuple):
    """A person who proved their password."""

    account_id: AccountId
    member: UUID
    email: str
    name: str


class Gate:
    """Finds out who asks."""

    def __init__(
        self,
        pool: AsyncConnectionPool,
        operator_digest: bytes,
        jwt_secret: str,
        lanes: int,
        clock: DatabaseClock,
    ) -> None:
        """Take what proofs are checked against, and the clock that they expire by."""
        self._pool = pool
        self.clock = clock
        self._digest = operator_digest
        self._secret = jwt_secret
        self._lanes = lanes

    async def caller(self, authorization: str | None) -> Caller:
        """Find who shows this ``Authorization``.

        Raises:
            Failure: 401: it proves nobody.
        """
        if authorization is None:
            raise unauthenticated(presented=False)
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() != "bearer" or not shown:
            raise unauthenticated(presented=False)
        if self._is_operator(shown):
            return THE_OPERATOR
        if shown.count(".") == 2:  # noqa: PLR2004 - header, claims, signature
            return await self._member(shown)
        raise unauthenticated("The secret or token is not valid.")

    async def require_operator(self, authorization: str | None) -> None:
        """Let the operator pass and nobody else.

        Raises:
            Failure: 401, or 403 for a member.
        """
        caller = await self.caller(authorization)
        if caller.role != OPERATOR:
            raise forbidden("metrics", caller.role)

    def _is_operator(self, shown: str) -> bool:
        # latin-1, as headers are read; digests are equally long and reveal nothing.
        presented = hashlib.sha256(shown.encode("latin-1")).digest()
        return hmac.compare_digest(presented, self._digest)

    async def _member(self, token: str) -> Caller:
        account_id, member_id = self._claims(token)
        role = await self._role(account_id, member_id)
        if role is None:
            raise unauthenticated("The token is not valid.")
        return Caller(role, f"{role}:{member_id}", account_id, member_id)

    def _claims(self, token: str) -> tuple[AccountId, str]:
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options=_CLAIMS,
            )
            require_unexpired(claims, self.clock.now())
            account_id = AccountId(parse_id("acct", str(claims["acct"])))
            parse_id("mbr", str(claims["sub"]))
        except (jwt.InvalidTokenError, InvalidId) as error:
            raise unauthenticated("The token is not valid.") from error
        return account_id, str(claims["sub"])

    async def _role(self, account_id: AccountId, member_id: str) -> str | None:
        lane = lane_of_account(account_id, self._lanes)
        async with self._pool.connection() as connection:
            rows = await connection.execute(
                accounts.ROLE, {"lane": lane, "account": account_id, "member": member_id}
            )
            row = await rows.fetchone()
        return None if row is None else row[0]

    def access_token(self, account_id: AccountId, member_id: str, at: Instant) -> str:
        """Sign a token that says who they are, for 15 minutes."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": member_id,
            "acct": format_id("acct", account_id),
            "iat": at,
            "exp": at + ACCESS,
            "jti": new_request_id(),
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)


class Logins:
    """Passwords and refresh tokens."""

    def __init__(self, pool: AsyncConnectionPool, gate: Gate, attempts: Attempts) -> None:
        """Take where logins are kept, and the counter of failed ones."""
        self._pool = pool
        self._gate = gate
        self._attempts = attempts
        self._at_once = asyncio.Semaphore(HASHES_AT_ONCE)
        self._nobodys_hash = HASHER.hash(random.token_hex(16))

    @staticmethod
    def check_password(password: str) -> None:
        """Refuse a password of the wrong length.

        Raises:
            Failure: It is too short or too long.
        """
        if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
            raise invalid("password", f"must have {PASSWORD_MIN} to {PASSWORD_MAX} characters")

    async def require_unknown(self, email: str) -> None:
        """Refuse an address that somebody logs in with. If two come at once, the ledger takes one.

        Raises:
            LoginIsTaken: Somebody does.
        """
        async with self._pool.connection() as connection:
            rows = await connection.execute(login_rows.FIND_LOGIN, {"email": email})
            if await rows.fetchone() is not None:
                raise LoginIsTaken

    async def hash(self, password: str) -> str:
        """Hash a password for storage.

        Raises:
            Failure: It is too short or too long.
        """
        self.check_password(password)
        async with self._at_once:
            return await asyncio.to_thread(HASHER.hash, password)

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return HASHER.verify(hashed, password[:PASSWORD_MAX])
        except (VerificationError, InvalidHashError):
            return False

    async def login(self, email: str, password: str, *, client: str, at: Instant) -> Tokens:
        """Return tokens for an address and its password.

        Raises:
            Failure: As for ``proven``.
        """
        found = await self.proven(email, password, client=client, at=at)
        family = UUID(bytes=random.token_bytes(16))
        return await self._tokens(family, email, found.account_id, found.member)

    async def proven(self, email: str, password: str, *, client: str, at: Instant) -> "LoggedIn":
        """Find who logs in with an address and its password, from a client's network address.

        Raises:
            Failure: 401: the same words and the same time whatever was wrong. 429: it failed too
                often recently, whether or not there is such a login and this is its password.
        """
        kept = address(email)
        bounds = _bounds_of_failures(kept, client)
        # Held from the check of the count to the count itself: otherwise a whole burst would be
        # hashed.
        async with self._at_once:
            # Before anything is hashed: a refusal costs nothing, and its timing reveals nothing.
            await self._attempts.require_room(bounds, at, refusal=_TOO_MANY)
            found = await self._found(kept, password)
            if found is None:
                await self._attempts.count(bounds, at, refusal=_TOO_MANY)
                raise unauthenticated("The address or the password is not right.")
        # Checked again: of many guesses at once, the right one may not outlast those that were
        # refused.
        await self._attempts.require_room(bounds, at, refusal=_TOO_MANY)
        return found

    async def _found(self, kept: str, password: str) -> "LoggedIn | None":
        async with self._pool.connection() as connection:
            rows = await connection.execute(login_rows.FIND_LOGIN, {"email": kept})
            row = await rows.fetchone()
        hashed = row[2] if row else self._nobodys_hash
        matches = await asyncio.to_thread(self._verify, hashed, password)
        if row is None or not matches or not row[3]:
            return None
        return LoggedIn(AccountId(row[1]), row[0], kept, row[4])

    async def refresh(self, token: str) -> Tokens:
        """Return new tokens for a refresh token, which is used up by that.

        A token that comes twice was stolen: its whole family ends.

        Raises:
            Failure: 401: it is unknown, used or expired.
        """
        hashed, at = _hash(token), self._gate.clock.now()
        async with self._pool.connection() as connection:
            rows = await connection.execute(login_rows.USE_REFRESH, {"at": at, "hashed": hashed})
            row = await rows.fetchone()
            if row is None:
                await self._end_family(hashed)
                raise unauthenticated("The refresh token is not valid.")
            found = await connection.execute(login_rows.FIND_LOGIN, {"email": row[1]})
            login = await found.fetchone()
        if row[2] <= at or login is None or not login[3]:
            raise unauthenticated("The refresh token is not valid.")
        return await self._tokens(row[0], row[1], AccountId(login[1]), login[0])

    async def logout(self, token: str) -> None:
        """End the family of a refresh token; quiet where there is none."""
        await self._end_family(_hash(token))

    async def _end_family(self, hashed: bytes) -> None:
        async with self._pool.connection() as connection:
            rows = await connection.execute(login_rows.FIND_REFRESH, {"hashed": hashed})
            row = await rows.fetchone()
            if row is not None:
                await connection.execute(login_rows.REVOKE_FAMILY, {"family": row[0]})

    async def _tokens(
        self, family: UUID, email: str, account_id: AccountId, member: UUID
    ) -> Tokens:
        at = self._gate.clock.now()
        refresh = REFRESH_PREFIX + random.token_urlsafe(32)
        parameters = {
            "hashed": _hash(refresh),
            "family": family,
            "email": address(email),
            "expires_at": at + REFRESH,
        }
        async with self._pool.connection() as connection:
            await connection.execute(login_rows.INSERT_REFRESH, parameters)
        access = self._gate.access_token(account_id, format_id("mbr", member), at)
        return Tokens(access, ACCESS // timedelta(seconds=1), refresh)


_TOO_MANY = "Too many failed logins. Try again later."


def _bounds_of_failures(kept: str, client: str) -> tuple[AttemptLimit, ...]:
    """Return how often logging in may fail: per network, per login, and per both.

    An e-mail address holds no space, so no two of these subjects are written alike.
    """
    site = site_of(client)
    return (
        AttemptLimit(f"failed-at {site}", FAILURES_AT_A_SITE, FAILURES_WINDOW),
        AttemptLimit(f"failed-of {kept}", FAILURES_OF_A_LOGIN, FAILURES_WINDOW),
        AttemptLimit(f"failed-of-at {kept} {site}", FAILURES_OF_A_LOGIN_AT_A_SITE, FAILURES_WINDOW),
    )


_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")


def address(email: str) -> str:
    """Return an e-mail address in the form that is kept and compared.

    Raises:
        Failure: It is not one.
    """
    found = email.strip().lower()
    if len(found) > EMAIL_MAX or _ADDRESS.fullmatch(found) is None:
        raise invalid("email", "must be an address such as name@example.com")
    if is_in(email):
        raise invalid("email", IS_SECRET)
    return found


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
