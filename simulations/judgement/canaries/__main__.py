"""Print the tables: `python -m simulations.judgement.canaries [--quick]`."""

from __future__ import annotations

import argparse
import time

from simulations.judgement.canaries.tables import FULL, QUICK, Size, delay_table, false_table, hard_table, latency_table


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs, in seconds")
    size: Size = QUICK if parser.parse_args().quick else FULL
    began = time.monotonic()
    for table in (false_table, hard_table, delay_table, latency_table):
        print(table(size), flush=True)
        print()
    print(f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
