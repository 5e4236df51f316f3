"""The result for people (a table) and for machines (one JSON object), and the exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from rich.console import JustifyMethod
from rich.table import Table

from simulations.busy import busy
from simulations.demo.account import Result

_COLUMNS: Final[dict[str, JustifyMethod]] = {
    "BREAKAGE": "left",
    "CAUSE FOUND": "left",
    "ACTION": "left",
    "DETECTED": "right",
    "MITIGATED": "right",
    "VERIFIED": "right",
    "LOST WITH": "right",
    "LOST WITHOUT": "right",
    "": "left",
}
_LONG: Final = frozenset({"ACTION", "VERIFIED"})


_CAPTION: Final = (
    "Seconds since the fault was laid. Mitigated: when the last user saw a request fail because of it; a fault that hits few requests "
    "may by chance hit none between that moment and the action."
)


def exit_code(results: Sequence[Result], expected: int, *, audit_ok: bool) -> int:
    """Return 0 only if every breakage was played and healed by the right cause, nobody innocent was hit and the audit holds."""
    good = all(r.healed and r.cause_right and not r.innocent_hit for r in results)
    return 0 if good and audit_ok and len(results) == expected else 1


def shortfalls(results: Sequence[Result], load: float, processors: int) -> tuple[str, ...]:
    """Return why the demo is no success, in sentences; `load` is the machine's load average. Empty when nothing fell short."""
    found = [f"{r.name}: {why}" for r in results if (why := _shortfall(r))]
    if found and (why := busy(load, processors)):
        found.append(why)
    return tuple(found)


def _shortfall(result: Result) -> str:
    if result.innocent_hit:
        return "an action hit an innocent"
    if result.detected_s is None:
        return "not detected"
    if not result.healed:
        return "not healed"
    return "" if result.cause_right else f"healed, but the cause named was {result.cause}"


def as_json(results: Sequence[Result], *, audit_ok: bool) -> str:
    """Render the object that `-o json` promises, on one line."""
    return json.dumps({"breakages": [_row(r) for r in results], "audit_ok": audit_ok}, ensure_ascii=False)


def _row(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "cause": result.cause,
        "cause_right": result.cause_right,
        "healed": result.healed,
        "innocent_hit": result.innocent_hit,
        "detected_s": _rounded(result.detected_s),
        "mitigated_s": _rounded(result.mitigated_s),
        "lost_with": result.lost_with,
        "lost_without": result.lost_without,
        "verified_s": _rounded(result.verified_s),
        "requests": result.requests,
        "playbook": result.playbook,
        "actions": list(result.actions),
    }


def as_table(results: Sequence[Result], *, brief: bool = False) -> Table:
    """Render the result table; `brief` leaves out what was done and when it was verified, for narrow places."""
    caption = None if brief else _CAPTION
    table = Table(
        title="What broke, and what became of it", title_justify="left", caption=caption, caption_justify="left"
    )
    for heading, justify in _COLUMNS.items():
        if not (brief and heading in _LONG):
            table.add_column(heading, justify=justify, no_wrap=brief)
    for r in results:
        cells = {
            "BREAKAGE": r.name,
            "CAUSE FOUND": (r.cause or "<none>") + ("" if r.cause_right else " ×"),
            "ACTION": "; ".join(r.actions) or "<none>",
            "DETECTED": _seconds(r.detected_s),
            "MITIGATED": _seconds(r.mitigated_s),
            "VERIFIED": _seconds(r.verified_s),
            "LOST WITH": f"{r.lost_with} of {r.requests}",
            "LOST WITHOUT": "<none>" if r.lost_without is None else str(r.lost_without),
            "": verdict(r),
        }
        table.add_row(*(cell for heading, cell in cells.items() if not (brief and heading in _LONG)))
    return table


def verdict(result: Result) -> str:
    """Return the one word a row ends with."""
    if result.innocent_hit:
        return "[red]hit an innocent[/red]"
    if not result.healed:
        return "[red]not healed[/red]"
    return "[green]healed[/green]" if result.cause_right else "[yellow]healed, wrong cause[/yellow]"


def _seconds(value: float | None) -> str:
    return "<never>" if value is None else f"{value:.2f} s"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
