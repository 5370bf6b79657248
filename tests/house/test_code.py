"""House rules over the source: no floats, no SQL from strings, no swallowed errors.

Each rule is a function from a parsed file to the lines that break it, shown to bite on a
planted example before it is run over the packages.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from projections.registry import CATCHING_UP, INLINE
from tests.house.parsed import tree_of

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for package in ("ledger", "projections", "api") for path in (ROOT / package).rglob("*.py")
)

FLOATS_ALLOWED = {
    "projections/reports": "frames and charts for people; sums stay decimal128",
    "api/settings.py": "reads time-outs from the environment",
    "api/cli": "shows shares and rates on a terminal",
    "api/tools/bench": "measures ratios",
    "api/tools/replay": "draws arrivals from measured rates, keeps speeds and latencies; no amount",
    "api/demo": "shows throughput",
}
DIVISION_ALLOWED = FLOATS_ALLOWED | {"ledger/server/embedded.py": "all its divisions join paths"}

TIME_OUT = re.compile(r"timeout|_seconds$", re.IGNORECASE)
PATH_NAME = re.compile(r"path|home|dir|root|file|folder", re.IGNORECASE)
SQL = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|TRUNCATE|GRANT|REVOKE|COPY|WITH)\b"
)

LIMIT_ID = re.compile(r"[a-z_]+(:.+)?/(day|month|lifetime|rolling:\d+)")

Finding = tuple[int, str]


def name_of(node: ast.AST) -> str:
    """Return the last name of an assignment's target or a called function."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def named_values(tree: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield each value beside the name that it is bound to."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg=name, value=value):
                yield name or "", value
            case ast.Assign(targets=targets, value=value):
                yield from ((name_of(target), value) for target in targets)
            case ast.AnnAssign(target=target, value=value):
                yield name_of(target), value
            case ast.arguments():
                positional = [*node.posonlyargs, *node.args]
                defaulted = positional[len(positional) - len(node.defaults) :]
                for arg, value in [
                    *zip(defaulted, node.defaults, strict=True),
                    *zip(node.kwonlyargs, node.kw_defaults, strict=True),
                ]:
                    yield arg.arg, value


def is_path(node: ast.expr) -> bool:
    """Return whether an operand of `/` looks like a part of a path."""
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(left=left, right=right):
            return is_path(left) or is_path(right)
        case ast.Name(id=name):
            return bool(PATH_NAME.search(name))
        case ast.Attribute(value=value, attr=name):
            return bool(PATH_NAME.search(name)) or is_path(value)
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return is_path(inner)
    return False


def floats(tree: ast.AST, _lines: list[str]) -> Iterator[Finding]:
    """Find float literals that are no time-outs, and calls of float()."""
    time_outs = {id(value) for name, value in named_values(tree) if TIME_OUT.search(name)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float()) if id(node) not in time_outs:
                yield node.lineno, "a float literal"
            case ast.Call(func=ast.Name(id="float")):
                yield node.lineno, "float()"


def divisions(tree: ast.AST, _lines: list[str]) -> Iterator[Finding]:
    """Find true divisions: of numbers, not joined paths."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(op=ast.Div()) if not is_path(node):
                yield node.lineno, "a true division"
            case ast.AugAssign(op=ast.Div(), target=target, value=value) if not (
                is_path(target) or is_path(value)
            ):
                yield node.lineno, "a true division"


def starts_as_sql(node: ast.expr) -> bool:
    """Return whether a string, formatted or not, begins like a statement."""
    match node:
        case ast.Constant(value=str(text)) | ast.JoinedStr(values=[ast.Constant(value=text), *_]):
            return bool(SQL.match(text))
    return False


def built_sql(tree: ast.AST, lines: list[str]) -> Iterator[Finding]:
    """Find SQL put together as a string, where no line says why that is safe."""
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr() if any(isinstance(v, ast.FormattedValue) for v in node.values):
                text: ast.expr = node
            case ast.BinOp(op=ast.Add() | ast.Mod(), left=text):
                pass
            case ast.Call(func=ast.Attribute(value=text, attr="format")):
                pass
            case _:
                continue
        written = lines[node.lineno - 1 : node.end_lineno]
        if starts_as_sql(text) and not any(re.search(r"# sql-ok: \S", line) for line in written):
            yield node.lineno, "SQL built from strings without `# sql-ok: why`"


def is_broad(caught: ast.expr | None) -> bool:
    """Return whether an except clause catches nearly everything."""
    match caught:
        case None:
            return True
        case ast.Tuple(elts=kinds):
            return any(is_broad(kind) for kind in kinds)
    return name_of(caught) in {"Exception", "BaseException"}


def swallowed(tree: ast.AST, lines: list[str]) -> Iterator[Finding]:
    """Find broad excepts that neither raise nor say why they are the last resort."""
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=caught) if is_broad(caught):
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            case ast.Call(func=called, args=args) if name_of(called) == "suppress":
                raises = not any(is_broad(arg) for arg in args)
            case _:
                continue
        if not raises and not re.search(r"# last-resort: \S", lines[node.lineno - 1]):
            yield node.lineno, "a broad except without raise or `# last-resort: why`"


MONEY = re.compile(r"pico|amount|charge|price|cost|spent|spend|credit|balance", re.IGNORECASE)
ROUNDS = frozenset({"quantize", "divide_round_half_even", "to_integral_value", "round"})


def is_money(node: ast.AST) -> bool:
    """Return whether a name in an operand sounds like an amount."""
    return any(MONEY.search(name_of(each)) for each in ast.walk(node))


def money_divided(tree: ast.AST, _lines: list[str]) -> Iterator[Finding]:
    """Find amounts that are divided, and whatever rounds."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(op=ast.FloorDiv() | ast.Div(), left=left) if is_money(left):
                yield node.lineno, "an amount divided; ask ``ledger.lines`` to split it"
            case ast.BinOp(op=ast.Mod(), left=left) if is_money(left):
                yield node.lineno, "the rest of an amount divided"
            case ast.Call(func=called, args=[first, *_]) if name_of(called) == "divmod":
                if is_money(first):
                    yield node.lineno, "an amount divided"
            case ast.Call(func=called) if name_of(called) in ROUNDS:
                yield node.lineno, "rounded; ask ``ledger.money`` or ``ledger.lines``"
            case ast.Name() | ast.Attribute() if name_of(node).startswith("ROUND_"):
                yield node.lineno, "a way to round"


TAKES_APART = frozenset(
    {"partition", "rpartition", "split", "rsplit", "startswith", "endswith", "removeprefix"}
    | {"removesuffix", "find", "index", "match", "fullmatch", "search"}
)


def limit_ids_taken_apart(tree: ast.AST, _lines: list[str]) -> Iterator[Finding]:
    """Find limit ids that are read as text, or written as literals."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=method), args=args):
                about = [value, *args] if method in TAKES_APART else []
            case ast.Subscript(value=value, slice=ast.Slice()):
                about = [value]
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[within]):
                about = [within] if isinstance(left, ast.Constant) else []
            case ast.Constant(value=str(text)) if LIMIT_ID.fullmatch(text):
                yield node.lineno, "a limit's id as a literal"
                continue
            case _:
                continue
        if any("limit_id" in name_of(each) for each in about):
            yield node.lineno, "a limit's id taken apart; ask ``ledger.limits``"


TABLES = "|".join(table.name for each in (*INLINE, *CATCHING_UP) for table in each.tables)
OF_PROJECTIONS = re.compile(rf"\b(FROM|JOIN|INTO|UPDATE|TABLE)\s+(keyledger\.)?({TABLES})\b")


def projections_tables(tree: ast.AST, _lines: list[str]) -> Iterator[Finding]:
    """Find SQL that names a projection's table."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if OF_PROJECTIONS.search(text):
                yield node.lineno, "a projection's table"


Rule = Callable[[ast.AST, list[str]], Iterator[Finding]]


def broken(rule: Rule, allowed: dict[str, str]) -> list[str]:
    """Run a rule over every source file that is not on its allow-list."""
    found = []
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(tuple(allowed)):
            continue
        for line, what in rule(tree_of(path), path.read_text("utf-8").splitlines()):
            found.append(f"{place}:{line}: {what}")
    return found


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (floats, "price = 0.5", "wait(timeout=0.5, every_seconds=-1, retry_seconds=0.1)"),
        (floats, "def f(price=0.5): ...", "def f(a, *, poll_seconds=0.5): ..."),
        (floats, "float(price)", "def f(wait_seconds: float): ..."),
        (divisions, "price / 2", "Path('a') / b / c; self.home / name; a / 'b'"),
        (divisions, "price /= 2", "price //= 2"),
        (built_sql, "f'SELECT {x}'", "f'SELECT {x}'  # sql-ok: x is a constant"),
        (built_sql, "'DELETE FROM ' + table", "f'Selected {x}'; 'SELECT 1'"),
        (built_sql, "'UPDATE {}'.format(t)", "SQL('UPDATE {}').format(t)"),
        (
            swallowed,
            "try: f()\nexcept Exception: pass",
            "try: f()\nexcept Exception: raise",
        ),
        (
            swallowed,
            "try: f()\nexcept: pass",
            "try: f()\nexcept: # last-resort: a worker\n  pass",
        ),
        (swallowed, "suppress(Exception)", "suppress(OSError)"),
        (money_divided, "price // 2", "units // 2"),
        (money_divided, "self.cost_pico % n", "'%d' % n"),
        (money_divided, "divmod(units * price, 10**6)", "divmod(seconds, 60)"),
        (money_divided, "decimal_of(n).quantize(PLACES)", "format_places(pico, 4)"),
        (money_divided, "f(n, ROUND_HALF_EVEN)", "f(n)"),
        (money_divided, "divide_round_half_even(n, 2)", "split(total, weights)"),
        (projections_tables, "'SELECT 1 FROM lots WHERE lane = %s'", "'SELECT 1 FROM events'"),
        (projections_tables, "'UPDATE keyledger.keys SET a = 1'", "'keys'"),
        (limit_ids_taken_apart, "limit.limit_id.rpartition('/')", "limit.kind == 'spend'"),
        (limit_ids_taken_apart, "limit_id.startswith('spend')", "name.startswith('spend')"),
        (limit_ids_taken_apart, "SPEND.fullmatch(refusal.limit_id)", "WORDS.get(limit.limit_id)"),
        (limit_ids_taken_apart, "limit_id[:5]", "counters[limit_id]"),
        (limit_ids_taken_apart, "'spend' in limit_id", "limit_id in counters"),
        (limit_ids_taken_apart, "RPM = 'requests/rolling:60'", "KIND = 'requests'"),
    ],
)
def test_each_rule_finds_what_it_looks_for(rule: Rule, bad: str, good: str) -> None:
    """A rule bites on a planted break and stays quiet on what is allowed."""
    assert list(rule(ast.parse(bad), bad.splitlines()))
    assert not list(rule(ast.parse(good), good.splitlines()))


def test_there_is_source_to_look_at() -> None:
    """The rules are not run over nothing."""
    assert SOURCES


def test_no_float_comes_near_money() -> None:
    """No float literal, no float() outside reports and settings, but for time-outs."""
    assert broken(floats, FLOATS_ALLOWED) == []


def test_nothing_is_divided_into_a_float() -> None:
    """No true division outside reports and settings; `/` joins paths only."""
    assert broken(divisions, DIVISION_ALLOWED) == []


def test_no_sql_is_built_from_strings() -> None:
    """SQL is a constant or SQLAlchemy Core; an exception says why it is safe."""
    assert broken(built_sql, {}) == []


def test_a_limits_id_is_read_and_written_in_one_place() -> None:
    """Kind, window and assets are fields; only ``ledger.limits`` knows how an id is made."""
    allowed = {"ledger/limits.py": "writes and reads it"}
    assert broken(limit_ids_taken_apart, allowed) == []


def test_money_is_divided_and_rounded_in_one_place() -> None:
    """``ledger.lines`` splits and rounds charges by ``ledger.money``'s one rounding."""
    allowed = FLOATS_ALLOWED | {
        "ledger/lines.py": "splits amounts and rounds charges",
        "ledger/money.py": "the one rounding",
    }
    assert broken(money_divided, allowed) == []


def test_the_ledger_knows_no_projections_table() -> None:
    """What a lane asks of them is put together from what they say of themselves."""
    allowed = {
        "ledger/server": "makes the tables",
        "projections": "their own",
        "api": "asks what they answer",
    }
    assert broken(projections_tables, allowed) == []


def test_no_error_is_swallowed() -> None:
    """A broad except raises again, or says why it is the last resort."""
    assert broken(swallowed, {}) == []
