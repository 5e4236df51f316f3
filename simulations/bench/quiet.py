"""What others on this machine took while we measured: a figure taken beside strangers says less than one taken alone."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE, _WAITING, _STOLEN, _LAST = 3, 4, 7, 8  # fields of the first line of /proc/stat, see proc_stat(5)


@dataclass(frozen=True, slots=True)
class Ledger:
    """CPU seconds so far: of the whole machine, taken from it by its host, and of us with every child we waited for."""

    at: float
    busy: float
    stolen: float
    own: float

    @classmethod
    def now(cls) -> Self:
        """Read the clocks."""
        with Path("/proc/stat").open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:]]
        busy = sum(ticks[k] for k in range(_LAST) if k not in {_IDLE, _WAITING, _STOLEN})
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(one.ru_utime + one.ru_stime for one in used)
        return cls(time.monotonic(), busy / _TICKS, ticks[_STOLEN] / _TICKS, own)

    def others(self, before: Ledger) -> float:
        """Return how many cores other processes and the host took since `before`; our children have ended by now."""
        taken = (self.busy - before.busy) + (self.stolen - before.stolen) - (self.own - before.own)
        return max(0.0, taken / (self.at - before.at))
