"""Every surface beside the native API: where dialects, gateway and dashboard are mounted."""

from collections.abc import Callable, Sequence
from typing import Any

from api.wiring import Services


def more(services: Callable[[], Services]) -> Sequence[Any]:  # noqa: ARG001
    """Give the route handlers of all further surfaces."""
    return []
