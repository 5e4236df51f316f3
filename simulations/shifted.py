"""`python -m simulations.shifted SECONDS MODULE ARGUMENTS…`: run a module in a process whose clock is wrong by so much.

`time.time` and `time.time_ns` are moved before the module is imported, which is every clock that control plane and agent read
by the calendar; what they measure durations with goes on as it was, as in a machine whose clock was set wrong.
"""

from __future__ import annotations

import runpy
import sys
import time

_NANO = 1_000_000_000


def shift(by_s: float) -> None:
    """Let this process believe that it is `by_s` seconds later (negative: earlier)."""
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + by_s
    time.time_ns = lambda: true_ns() + round(by_s * _NANO)


def main() -> None:
    """Shift, then become the module."""
    by_s, module, *arguments = sys.argv[1:]
    shift(float(by_s))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
