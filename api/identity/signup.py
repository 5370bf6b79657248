"""Sign-up: how often an address may open an account, and the account with its owner's login.

Attempts count, not successes, so that nobody can find out by trying which addresses are known here.
"""

from datetime import timedelta
from typing import NamedTuple

from api.http.failure import Failure, Kind
from api.identity.attempts import AttemptLimit, Attempts, site_of
from api.identity.auth import Logins, address
from api.operations import Asked, Ledger, new_person
from ledger.clock import Instant
from ledger.ids import AccountId, new_account_id
from ledger.keys import require_no_secret

WINDOW = timedelta(hours=1)


class Opened(NamedTuple):
    """An account that somebody opened."""

    account_id: AccountId
    member_id: str
    email: str
    name: str


class Signups:
    """Opens accounts for people who sign up."""

    def __init__(
        self, ledger: Ledger, logins: Logins, attempts: Attempts, *, per_hour: int
    ) -> None:
        """Take how many accounts a network address may open in any hour; 0: none."""
        self._ledger = ledger
        self._logins = logins
        self._attempts = attempts
        self._per_hour = per_hour

    async def open(
        self, *, email: str, password: str, name: str, client: str, at: Instant
    ) -> Opened:
        """Open an account with the welcome grant and its owner's login, in one command.

        Raises:
            Failure: Sign-up is switched off.
            Failure: The e-mail address or password is invalid, or the client made too many
                attempts. InvalidField: The name holds a secret. LoginIsTaken: Somebody logs in with
                this address.
        """
        if not self._per_hour:
            raise Failure(Kind.ACCESS_IS_DENIED, "Sign-up is switched off.")
        kept = address(email)
        self._logins.check_password(password)
        require_no_secret("name", name)
        await self.admit(client, at)
        await self._logins.require_unknown(kept)
        person = new_person(kept, name, await self._logins.hash(password))
        account_id, by = new_account_id(), f"owner:{person.member_id}"
        terms = self._ledger.accounts.opening.own_terms(by)
        await self._ledger.accounts.open(
            Asked(by), terms, name=name, account_id=account_id, owner=person
        )
        return Opened(account_id, person.member_id, kept, name)

    async def admit(self, client: str, at: Instant) -> None:
        """Count an attempt from a client's address.

        Raises:
            Failure: 429: it made as many as it may in the last hour.
        """
        bound = AttemptLimit(f"signup/{site_of(client)}", self._per_hour, WINDOW)
        refusal = "Too many sign-ups from this address. Try again later."
        await self._attempts.count([bound], at, refusal=refusal)
