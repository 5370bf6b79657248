"""One chain for the session, and services whose wallets live on it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.services import Services
from tests.conftest import settings_for
from tests.identity.wallet.chain import Chain, Endpoint

Story = Callable[[Services], Awaitable[Any]]


@pytest.fixture(scope="session")
def chain() -> Chain:
    """Return a chain with the staking contract."""
    return Chain()


@pytest.fixture(scope="session")
def node(chain: Chain) -> Iterator[Endpoint]:
    """Serve the chain over JSON-RPC."""
    endpoint = Endpoint(chain.answer)
    yield endpoint
    endpoint.close()


@pytest.fixture
def node_url(node: Endpoint) -> str:
    """Return where the chain is served."""
    return node.url


@pytest.fixture
def web3(chain: Chain, node_url: str) -> dict[str, Any]:
    """Return the settings that name this chain."""
    return {
        "web3_rpc_url": node_url,
        "web3_contract": chain.staking,
        "web3_chain_id": chain.chain_id,
    }


@pytest.fixture
def run(ledger_url: str, tmp_path: Path, web3: dict[str, Any]) -> Callable[..., Any]:
    """Run a story with services on the module's ledger; settings may be changed."""

    async def with_services(story: Story, changes: dict[str, Any]) -> Any:
        services = await Services.open(settings_for(tmp_path, **{**web3, **changes}), ledger_url)
        try:
            return await story(services)
        finally:
            await services.close()

    return lambda story, **changes: asyncio.run(with_services(story, changes))
