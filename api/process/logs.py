"""Logs: one JSON object per line on standard error, and never a secret in it (promise 11)."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from ledger import secrets


def redacted(value: Any) -> Any:  # noqa: ANN401
    """Return a value of a log line with every secret in it replaced."""
    if isinstance(value, str):
        return secrets.redacted(value)
    if isinstance(value, dict):
        return {redacted(key): redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
    if isinstance(value, int | None):
        return value
    return secrets.redacted(str(value))


def redact(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace secrets in a whole line, tracebacks included."""
    return {str(redacted(key)): redacted(value) for key, value in line.items()}


def configure(level: int = logging.INFO) -> None:
    """Log everything, including the libraries' lines, in our form."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "uvicorn.access", "alembic", "mcp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns about each run that is skipped because the previous one is not done.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
