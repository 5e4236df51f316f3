"""`python -m simulations.bench [NAME...] [--quick] [-o json]`: measure, and print one table each."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict

from models.errors import FibrinError
from simulations.bench import agent_cost, footprint, overhead, propagation, simulated

MEASUREMENTS = {
    "overhead": overhead.measure,
    "propagation": propagation.measure,
    "simulated": simulated.measure,
    "agent": agent_cost.measure,
    "memory": footprint.measure,
}


def main() -> None:
    """Run the measurements named (or all), one after the other."""
    parser = argparse.ArgumentParser(prog="simulations.bench", description="Measure the mesh beside its limits.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)} [all]")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: a test of the measurement itself")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(MEASUREMENTS):
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    tables = {}
    for name in chosen.names or MEASUREMENTS:
        try:
            tables[name] = asyncio.run(MEASUREMENTS[name](quick=chosen.quick))
        except FibrinError as error:
            sys.exit(f"bench {name}: {error} ({error.hint})")
        if chosen.output == "text":
            print(tables[name].text(), flush=True)
    if chosen.output == "json":
        print(json.dumps({name: asdict(table) for name, table in tables.items()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
