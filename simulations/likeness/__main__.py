"""`python -m simulations.likeness`: the same faults on real sidecars and in the simulator, curve by curve."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from dataclasses import asdict

import structlog

from models.errors import FibrinError
from simulations.drills.report.charts import Chart, scene, svg
from simulations.drills.report.told import Moment, Series
from simulations.likeness.curves import AFTER_S, Curve, Run, Unit
from simulations.likeness.pairs import PAIRS, Compared, play
from simulations.outputs import file_argument

_SHOWN = 4
"""Curves of a pair that are drawn: users' share of missed requests, and the service's own."""


def main() -> int:
    """Run the comparison and print it; 1 when the mesh did not come up, 2 when asked for nonsense."""
    parser = argparse.ArgumentParser(prog="python -m simulations.likeness", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[pair.drill for pair in PAIRS], help="one fault instead of all")
    parser.add_argument("-o", "--output", choices=["json"], help="one JSON object, the curves included")
    parser.add_argument("--picture", type=file_argument, help="draw the curves into this HTML file")
    chosen = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for what was found
    pairs = [pair for pair in PAIRS if chosen.only in (None, pair.drill)]
    try:
        found = asyncio.run(play(pairs, chosen.seed, lambda kind, text: print(f"{kind}: {text}", file=sys.stderr)))
    except FibrinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if chosen.picture is not None:
        chosen.picture.write_text(page(found), encoding="utf-8")
    print(as_json(found) if chosen.output == "json" else "\n\n".join(map(table, found)))
    return 0


def table(one: Compared) -> str:
    """Return one fault as text: when what happened, and each curve before, at its worst and at the end."""
    lines = [
        f"{one.pair.drill}: {one.pair.fault}",
        f"  {'':<28}{'real':>10}{'simulated':>12}",
    ]
    for name in ("detected_s", "acted_s", "mitigated_s"):
        real, simulated = (_seconds(getattr(run, name)) for run in (one.real, one.simulated))
        lines.append(f"  {name.removesuffix('_s') + ' after':<28}{real:>10}{simulated:>12}")
    lines += [f"  cause, real: {one.real.cause}", f"  cause, simulated: {one.simulated.cause}"]
    head = "".join(f"{title:>22}" for title in ("before", "farthest", "at the end"))
    lines.append(f"  {'real | simulated':<28}{head}{'distance':>10}")
    for curve in one.curves:
        cells = "".join(f"{_pair(curve.unit, pair):>22}" for pair in (curve.before, curve.worst, curve.ended))
        lines.append(f"  {curve.name:<28}{cells}{curve.distance:>10.2f}")
    lines.append("  distance: mean gap of the two curves, as a share of how far the real one moves")
    return "\n".join(lines)


def as_json(found: tuple[Compared, ...]) -> str:
    """Return everything as one JSON object; what was not seen is null."""
    return json.dumps(
        {
            "pairs": [
                {
                    "drill": one.pair.drill,
                    "fault": str(one.pair.fault),
                    "real": _times(one.real),
                    "simulated": _times(one.simulated),
                    "curves": [{**_nulls(asdict(c)), "distance": _null(c.distance)} for c in one.curves],
                }
                for one in found
            ]
        }
    )


def page(found: tuple[Compared, ...]) -> str:
    """Return the curves as one HTML page without script."""
    parts = ["<!doctype html><meta charset='utf-8'><title>real and simulated</title>", _STYLE]
    for one in found:
        charts = [_chart(curve, one) for curve in (one.curves[0], *one.curves[3 : 3 + _SHOWN])]
        around = scene([line for chart in charts for line in chart.lines], [Moment(0.0, "onset", "onset")], AFTER_S)
        parts.append(f"<h2>{one.pair.drill}</h2><div>")
        parts += [svg(chart, around) for chart in charts]
        parts.append("</div>")
    return "\n".join(parts)


_STYLE = "<style>body{font:14px sans-serif;background:#fff}svg{width:560px}div{display:flex;flex-wrap:wrap}</style>"


def _chart(curve: Curve, one: Compared) -> Chart:
    lines = [
        Series(name, curve.at, tuple(_null(v) for v in values))
        for name, values in (("real", curve.real), ("simulated", curve.simulated))
    ]
    return Chart(f"{one.pair.drill} – {curve.name}", lines, lambda v: _value(curve.unit, v), 1e-3)


def _times(run: Run) -> dict[str, float | str | None]:
    return {name: getattr(run, name) for name in ("detected_s", "acted_s", "mitigated_s", "cause")}


def _nulls(curve: dict[str, object]) -> dict[str, object]:
    return {k: [_null(x) for x in v] if isinstance(v, tuple) else v for k, v in curve.items()}


def _null(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _pair(unit: Unit, pair: tuple[float, float]) -> str:
    return " | ".join(_value(unit, value) for value in pair)


def _value(unit: Unit, value: float) -> str:
    if math.isnan(value):
        return "–"
    match unit:
        case "share":
            return f"{100 * value:.1f} %"
        case "s":
            return f"{1000 * value:.0f} ms"
        case "rps":
            return f"{value:.1f}/s"


if __name__ == "__main__":
    sys.exit(main())
