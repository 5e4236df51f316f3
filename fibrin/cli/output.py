"""How the command line shows things: tables, YAML, JSON, names, ages; data on stdout, errors on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any, Final

import click
import numpy as np
import yaml

from fibrin.settings import environment
from models.errors import FibrinError

FORMATS: Final = ("table", "wide", "json", "yaml", "name")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its header, how to read a cell, and whether it shows only in `-o wide`."""

    header: str
    cell: Callable[[Any], object]
    wide: bool = False


def plain(value: Any) -> Any:
    """Turn dataclasses, enums, sets and arrays into what JSON and YAML can hold."""
    match value:
        case Enum():
            result: Any = value.value
        case Mapping():
            result = {str(plain(k)): plain(v) for k, v in value.items()}
        case set() | frozenset():
            result = sorted((plain(v) for v in value), key=str)
        case list() | tuple():
            result = [plain(v) for v in value]
        case np.ndarray():
            result = value.tolist()
        case _ if is_dataclass(value) and not isinstance(value, type):
            result = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        case _:
            result = value
    return result


def show(
    rows: Sequence[Any],
    columns: Sequence[Column],
    output: str,
    *,
    kind: str,
    name: Callable[[Any], str],
    single: bool = False,
) -> None:
    """Print `rows` in the asked format; `single` prints one object rather than a list in JSON and YAML."""
    if output in ("json", "yaml"):
        data = plain(rows[0]) if single else {"items": [plain(r) for r in rows]}
        click.echo(dump(data, output), nl=False)
    elif output == "name":
        for row in rows:
            click.echo(f"{kind}/{name(row)}")
    elif not rows:
        click.echo(f"No {plural(kind)} found.", err=True)
    else:
        shown = [c for c in columns if output == "wide" or not c.wide]
        click.echo(table([c.header for c in shown], [[text(c.cell(r)) for c in shown] for r in rows]))


def plural(noun: str) -> str:
    """Return the word for several: `canaries`, `drills`."""
    if noun == "slo":
        return "service level objectives"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """Return a number with its word: `1 file`, `2 files`."""
    return f"{count} {noun if count == 1 else plural(noun)}"


def findings(errors: int, warnings: int) -> str:
    """Return how a check ended: `1 error, 2 warnings`, or `no findings`."""
    return f"{counted(errors, 'error')}, {counted(warnings, 'warning')}" if errors + warnings else "no findings"


def dump(data: object, output: str) -> str:
    """Render plain data as JSON or YAML text ending in a newline."""
    if output == "json":
        return json.dumps(data, indent=2) + "\n"
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table in kubectl's manner: upper-case headers, three spaces between columns, no rules."""
    lines = [list(headers), *[list(r) for r in rows]]
    widths = [max(len(line[k]) for line in lines) for k in range(len(headers))]
    return "\n".join("   ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def text(value: object) -> str:
    """Render one cell; nothing is `<none>`."""
    if value is None or value in ("", (), [], {}):
        return "<none>"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def age(since: float, now: float | None = None) -> str:
    """Render the time since Unix time `since` in kubectl's short form (`12s`, `3m`, `4h`, `2d`)."""
    seconds = max(0, int((time.time() if now is None else now) - since))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size or (size > 60 and seconds >= size):  # noqa: PLR2004 - kubectl shows 90s, not 1m
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def percent(ratio: float | None) -> str:
    """Render a ratio 0–1 as a percentage."""
    return "-" if ratio is None or ratio != ratio else f"{100 * ratio:.1f}%"  # noqa: PLR0124 - NaN test


def milliseconds(seconds: float | None) -> str:
    """Render seconds as milliseconds (`-` when unknown)."""
    return "-" if seconds is None or seconds != seconds else f"{1000 * seconds:.0f}ms"  # noqa: PLR0124 - NaN test


def colour() -> bool:
    """Tell whether colour is welcome: a terminal, and NO_COLOR unset (read by click and rich as well)."""
    return sys.stdout.isatty() and "NO_COLOR" not in environment()


def report(error: FibrinError) -> None:
    """Print an error on stderr: what, every finding with its place, and what to do next."""
    said = error.message
    click.echo(f"error: {said}", err=True)
    for problem in error.problems:
        bare = str(replace(problem, hint=""))
        if str(problem) not in said and not (bare in said and problem.hint in {"", error.hint}):
            click.echo(f"  {problem}", err=True)
            said += f"\n{problem}"
    if error.hint and f"({error.hint})" not in said:  # a finding says its own hint
        click.echo(f"hint: {error.hint}", err=True)
