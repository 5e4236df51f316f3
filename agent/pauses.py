"""Keep Python's garbage collector from stopping a long-lived process in the middle of its work.

The collector starts whenever a few hundred more containers were made than freed. A push to a thousand sidecars makes that
many every few of them, and each collection walks what the process holds: measured, 30 % of the control plane's CPU and
half of the last sidecar's wait. Almost nothing here is garbage in cycles, so it is enough to look seldom.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000
"""Containers made and not freed before the youngest are looked at: a few megabytes at most."""
MIDDLE: Final = 20
OLD: Final = 50
"""Collections of a generation before the next older one is looked at."""


def rare() -> None:
    """Make collections rare in this process, and leave out for ever what the program's own modules hold."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
