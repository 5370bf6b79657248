"""Talks to the running service as its operator."""

import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import click
import httpx

from api.cli import CommandError
from api.settings import InvalidSetting, Settings, from_environment

PREFIX = "/ledger/v1"
ANSWER_SECONDS = 60
KEPT_SECRET = "demo-operator-secret"  # noqa: S105 - the name of a file
"""Where the demo keeps the operator's secret that it made, in the data directory, mode 0600."""
PAGE = "1000"


def settings() -> Settings:
    """Read the settings from the environment."""
    try:
        return from_environment(os.environ)
    except InvalidSetting as error:
        raise click.UsageError(str(error)) from error


def url_of(found: Settings) -> str:
    """Return the address of the service."""
    given = os.environ.get("KEYLEDGER_URL", "").rstrip("/")
    if given and not given.startswith(("http://", "https://")):
        raise click.UsageError("KEYLEDGER_URL must begin with http:// or https://.")
    host = "127.0.0.1" if found.host in {"", "0.0.0.0", "::"} else found.host  # noqa: S104
    return given or f"http://{f'[{host}]' if ':' in host else host}:{found.port}"


def secret_of(found: Settings) -> str:
    """Return the operator's secret from the environment, or the one that the demo kept."""
    if found.admin_secret:
        return found.admin_secret
    kept = found.home / KEPT_SECRET
    if kept.is_file():
        return kept.read_text("ascii").strip()
    raise CommandError(
        "KEYLEDGER_ADMIN_SECRET is not set; it was printed when the service first started."
    )


class Service:
    """The service at an address, until the running command ends."""

    def __init__(self, url: str, secret: str) -> None:
        """Take where it is and what proves the operator."""
        self.url = url
        self.secret = secret
        self._client = httpx.Client(
            base_url=url + PREFIX,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=ANSWER_SECONDS,
        )

        click.get_current_context().call_on_close(self._client.close)

    def get(self, path: str, **query: str | None) -> Any:  # noqa: ANN401
        """Get a resource."""
        sent = {name.rstrip("_"): value for name, value in query.items() if value is not None}
        return self._answer("GET", path, params=sent)

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        idempotency_key: str = "",
    ) -> Any:  # noqa: ANN401
        """Post a body under an idempotency key."""
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        return self._answer("POST", path, json=dict(body or {}), headers=headers)

    def pages(self, path: str) -> Iterator[Any]:
        """Get every item of a list, page by page."""
        after: str | None = None
        while True:
            page = self.get(path, limit=PAGE, after=after)
            yield from page["data"]
            after = page["next"]
            if not page["has_more"]:
                return

    def _answer(self, method: str, path: str, **parts: Any) -> Any:  # noqa: ANN401
        try:
            answer = self._client.request(method, path, **parts)
        except httpx.ConnectError as error:
            message = f"No service answers at {self.url}. Start one by: keyledger serve"
            raise CommandError(message) from error
        except httpx.HTTPError as error:
            raise CommandError(f"{self.url}: {str(error) or type(error).__name__}") from error
        try:
            document = answer.json()
        except ValueError as error:
            message = f"{self.url} answers {answer.status_code}, not in the ledger's words."
            raise CommandError(message) from error
        if answer.is_error:
            raise CommandError(said(answer.status_code, document))
        return document


def said(status: int, problem: Any) -> str:  # noqa: ANN401
    """Word a problem in one line, and one more for each of its reasons."""
    if status == httpx.codes.UNAUTHORIZED:
        return "The operator's secret is not accepted; see KEYLEDGER_ADMIN_SECRET."
    detail = str(problem.get("detail") or problem.get("title") or status)
    reasons = [f"\n  {reason}" for reason in problem.get("reasons") or ()]
    return f"{detail} [{problem.get('code', status)}]{''.join(reasons)}"


def connect() -> Service:
    """Find the service that the environment names."""
    found = settings()
    return Service(url_of(found), secret_of(found))


def segment(text: str) -> str:
    """Quote a name for a path."""
    return quote(text, safe="")
