"""`keyledger serve`: the service in the foreground."""

import os

import click
import msgspec

from api.cli import CommandError
from api.cli.service import settings
from api.settings import PORT_MAX, VARIABLES, WORKERS_MAX


class _Documented(click.Command):
    """Lists the environment in its help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Environment"):
            formatter.write_dl(list(VARIABLES.items()))


@click.command(cls=_Documented)
@click.option("--host", help="Address to listen on; overrides KEYLEDGER_HOST.")
@click.option("--port", type=click.IntRange(0, PORT_MAX), help="Port; overrides KEYLEDGER_PORT.")
@click.option("--workers", type=click.IntRange(1, WORKERS_MAX), help="Worker processes.")
def command(*, host: str | None, port: int | None, workers: int | None) -> None:
    """Run the service until Ctrl-C.

    Without KEYLEDGER_DATABASE_URL an embedded PostgreSQL runs in the data directory. At the first
    start the operator's secret is made and printed once.
    """
    from api.process import logs, serve  # noqa: PLC0415 - the help needs neither
    from ledger.errors import IncompatibleDatabase  # noqa: PLC0415
    from ledger.server.embedded import EmbeddedDatabaseError  # noqa: PLC0415

    found = settings()
    given = {"host": host, "port": port, "workers": workers}
    chosen = msgspec.structs.replace(
        found, **{name: value for name, value in given.items() if value is not None}
    )
    logs.configure()
    try:
        serve.run(chosen)
    except (IncompatibleDatabase, EmbeddedDatabaseError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        place = f"{chosen.host}:{chosen.port}"
        raise CommandError(f"{place}: {os.strerror(error.errno or 0)}.") from error
