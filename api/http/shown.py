"""The credential in a request's headers: ``Authorization: Bearer`` or ``X-API-Key``."""

from typing import Any, NamedTuple

from api.http.asking import Ask
from api.http.failure import Failure, Kind

JWT_DOTS = 2
"""Parts of a token: header, claims and signature."""


class Presented(NamedTuple):
    """The credentials in the headers."""

    bearer: str | None
    api_key: str | None
    other_scheme: bool
    """Whether there is an ``Authorization`` that is not Bearer."""

    @property
    def any(self) -> str | None:
        """Return the credential, whichever header shows it.

        Raises:
            Failure: Two headers show different ones (RFC 6750 §2), in any scheme.
        """
        disagree = self.other_scheme or self.bearer not in {None, self.api_key}
        if self.api_key is not None and disagree:
            raise Failure(Kind.CREDENTIALS_DISAGREE, "Two headers show different credentials.")
        return self.bearer if self.bearer is not None else self.api_key


def presented(ask: Ask[Any]) -> Presented:
    """Read ``Authorization`` and ``X-API-Key``."""
    authorization = ask.header(b"authorization")
    scheme, _, rest = (authorization or "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    shown = rest.strip() if is_bearer else ""
    api_key = ask.header(b"x-api-key")
    return Presented(
        bearer=shown or None,
        api_key=api_key.strip() or None if api_key is not None else None,
        other_scheme=bool(authorization) and not shown,
    )


def bearer(ask: Ask[Any]) -> str:
    """Return the credential in ``Authorization: Bearer``.

    Raises:
        Failure: There is none, or another scheme.
    """
    found = presented(ask)
    return _required(found, found.bearer)


def bearer_or_api_key(ask: Ask[Any]) -> str:
    """Return the credential in either header; equal values in both are harmless.

    Raises:
        Failure: There is none, or they disagree.
    """
    found = presented(ask)
    return _required(found, found.any)


def api_key(ask: Ask[Any]) -> str:
    """Return the credential in ``X-API-Key``.

    Raises:
        Failure: There is none.
    """
    text = presented(ask).api_key
    if text is None:
        raise Failure(Kind.CREDENTIAL_IS_MISSING)
    return text


def _required(found: Presented, text: str | None) -> str:
    if text is None:
        missing = not found.other_scheme
        raise Failure(Kind.CREDENTIAL_IS_MISSING if missing else Kind.CREDENTIAL_IS_MALFORMED)
    return text


def is_token(text: str) -> bool:
    """Return whether a credential has the shape of a member's token."""
    return text.count(".") == JWT_DOTS
