"""The command line. Commands are loaded when they are called, so that ``--help`` is quick."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click


class LazyCommand(NamedTuple):
    """Where a command is and what it is for."""

    module: str
    """Holds the command as ``command``."""
    summary: str


COMMANDS = {
    "serve": LazyCommand("api.cli.serve", "Run the service."),
    "demo": LazyCommand(
        "api.cli.demo", "Show the main job: start, issue keys, replay traffic, report."
    ),
    "replay": LazyCommand("api.cli.replay", "Send recorded traffic to the running service."),
    "account": LazyCommand("api.cli.account", "Open, show, suspend, resume and close accounts."),
    "key": LazyCommand("api.cli.key", "Issue, rotate, suspend, resume and revoke keys."),
    "grant": LazyCommand("api.cli.grant", "Add credit, list it, withdraw it."),
    "price": LazyCommand("api.cli.price", "Publish, import, show and compare rate cards."),
    "report": LazyCommand("api.cli.report", "Spend per integration, balances."),
    "audit": LazyCommand("api.cli.audit", "Verify the ledger; rebuild what is derived from it."),
    "db": LazyCommand("api.cli.db", "Bring the database up to date; show its state."),
    "bench": LazyCommand("api.cli.bench", "Measure speed, compared with peers."),
}
"""Every command, in the order of the help. One whose package is missing is not listed."""


class CommandError(click.ClickException):
    """The command failed; the message is one line."""

    exit_code = 1


class _Lazy(click.Group):
    """Finds a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for name, place in COMMANDS.items() if _is_there(place.module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS or not _is_there(COMMANDS[cmd_name].module):
            return None
        module = importlib.import_module(COMMANDS[cmd_name].module)
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in self.list_commands(ctx)])


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


EPILOG = """Commands find the service by KEYLEDGER_URL and prove the operator by
KEYLEDGER_ADMIN_SECRET; report, audit and db go to the database itself, by KEYLEDGER_DATABASE_URL or
KEYLEDGER_HOME. keyledger serve --help lists all variables."""


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(package_name="keyledger")
def cli() -> None:
    """Keyledger meters, limits and bills the use of an AI API, and can prove every amount."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 1 for a failure, 2 for a usage error, 130 for Ctrl-C."""
    given = None if arguments is None else list(arguments)
    try:
        cli.main(given, "keyledger", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.ClickException, click.Abort, KeyboardInterrupt) as error:
        return _said(error)
    except BrokenPipeError:
        # The reader of a pipe went away; nothing may be written to it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _said(error: BaseException) -> int:
    """Say in one line what went wrong; return the exit code."""
    code, line = 130, "keyledger: stopped."
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return 2
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "keyledger"
        code, line = 2, f"{where}: {error.format_message()} See {where} --help."
    elif isinstance(error, click.ClickException):
        code, line = error.exit_code, f"keyledger: {error.format_message()}"
    click.echo(line, err=True)
    return code
