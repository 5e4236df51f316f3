"""`python -m simulations.bench [NAME...] [--quick] [-o json]`: measure, print one table each, judge.

Exit code 0: measured, and every target held. 1: a target was missed (which, stands on stderr), or a measurement could
not be made. With `--quick` nothing is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace

from models.errors import FibrinError
from simulations.bench import agent_cost, decisions, footprint, overhead, propagation, simulated, virtual
from simulations.bench.figures import Table
from simulations.bench.quiet import Ledger
from simulations.stopping import cancel_on_sigterm

MEASUREMENTS: Mapping[str, Callable[..., Awaitable[Table]]] = {
    "overhead": overhead.measure,
    "propagation": propagation.measure,
    "simulated": simulated.measure,
    "agent": agent_cost.measure,
    "decisions": decisions.measure,
    "memory": footprint.measure,
    "simulator": virtual.measure,
}


def main() -> None:
    """Run the measurements named (or all), one after the other."""
    parser = argparse.ArgumentParser(prog="simulations.bench", description="Measure the mesh beside its limits.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)} [all]")
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: a test of the measurement itself, nothing is judged"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(MEASUREMENTS):
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    tables: dict[str, Table] = {}
    for name in chosen.names or MEASUREMENTS:
        try:
            before = Ledger.now()
            found = asyncio.run(_interruptible(name, quick=chosen.quick))
            tables[name] = replace(found, others=Ledger.now().others(before))
        except FibrinError as error:
            sys.exit(f"bench {name}: {error} ({error.hint})")
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        if chosen.output == "text":
            print(tables[name].text(), flush=True)
    if chosen.output == "json":
        print(json.dumps({name: encoded(table) for name, table in tables.items()}, ensure_ascii=False))
    sys.exit(verdict(tables))


async def _interruptible(name: str, *, quick: bool) -> Table:
    """Measure; SIGTERM ends it in order, as Ctrl-C does: every process stopped, the state directory removed."""
    cancel_on_sigterm()
    return await MEASUREMENTS[name](quick=quick)


def encoded(table: Table) -> dict[str, object]:
    """Return a table as JSON-like data, each target with whether it was held (null: not judged)."""
    targets = [{**asdict(t), "held": t.held if table.judged else None} for t in table.targets]
    return {**asdict(table), "targets": targets}


def verdict(tables: Mapping[str, Table]) -> int:
    """Return the exit code, and say on stderr what was missed."""
    missed = [f"bench {name}: {target.text()}" for name, table in tables.items() for target in table.missed]
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    main()
