"""What the processes of the sign-in tests do: each a host of its own on one database."""

import asyncio
from pathlib import Path

from api.identity.wallet import TokenIsUsed, WalletAddress
from api.services import Services
from tests.conftest import settings_for

_barrier = None


def enter(barrier) -> None:
    """Take what a process shares with the others."""
    global _barrier  # noqa: PLW0603
    _barrier = barrier


def sign_in(task) -> list[tuple[str, str]]:
    """Use one token several times at once; return what came of each, and the account."""
    return asyncio.run(_sign_in(*task))


async def _sign_in(url: str, home: str, web3: dict, proof: tuple[str, str, str], times: int):
    services = await Services.open(settings_for(Path(home), **web3), url)
    try:
        await services.wallets._ready()
        await asyncio.to_thread(_barrier.wait, 60)
        return await asyncio.gather(*(_once(services, proof) for _ in range(times)))
    finally:
        await services.close()


async def _once(services: Services, proof: tuple[str, str, str]) -> tuple[str, str]:
    # The account is opened whatever becomes of the proof, so that all open it at once.
    account = services.wallets.account_for(WalletAddress(proof[0]))
    found, opened = await asyncio.gather(
        services.wallets.prove(*proof), account, return_exceptions=True
    )
    if isinstance(opened, BaseException):
        raise opened
    if isinstance(found, BaseException) and not isinstance(found, TokenIsUsed):
        raise found
    return type(found).__name__, str(opened)
