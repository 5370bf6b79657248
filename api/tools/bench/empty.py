"""The peer of the HTTP rows: an empty Litestar ``@post`` handler, served as ours is served.

``python -m api.tools.bench.empty PORT WORKERS``: one listening socket, so many uvicorn workers.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import msgspec
import uvicorn
from litestar import Litestar, get, post

from api.process.serve import BACKLOG, configured

CHECK_SECONDS = 1


class Nothing(msgspec.Struct, frozen=True):
    """What the handler's body is decoded into."""


@post("/empty")
async def empty(data: Nothing) -> None:
    """Do nothing."""


@post("/bare")
async def bare() -> None:
    """Do nothing, and leave the body alone."""


@get("/ready")
async def ready() -> None:
    """Say that it serves."""


def serve(descriptor: int) -> None:
    """Answer on an inherited socket until SIGTERM, or until the supervisor is gone."""
    app = Litestar([empty, bare, ready], openapi_config=None, logging_config=None)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    uvicorn.Server(configured(app)).run(sockets=[socket.socket(fileno=descriptor)])


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def supervise(port: int, workers: int) -> None:
    """Bind the port and keep the workers on it until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(BACKLOG)
        descriptor = listening.fileno()
        command = [sys.executable, "-m", "api.tools.bench.empty", "--worker", str(descriptor)]
        for _ in range(workers):
            worker = subprocess.Popen(command, pass_fds=(descriptor,))  # noqa: S603 - our own
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
        signal.pause()


def main() -> None:
    """Serve, as supervisor or as worker."""
    first, second = sys.argv[1:]
    if first == "--worker":
        serve(int(second))
    else:
        supervise(int(first), int(second))


if __name__ == "__main__":
    main()
