"""Whether this machine was too busy for what was played on it to say much about the mesh."""

from __future__ import annotations

import os
from typing import Final

BUSY: Final = 1.5
"""Load average per processor from which on a machine is too busy for what is measured in tenths of a second."""


def busy(load: float, processors: int) -> str:
    """Return a sentence when a load average is too high for so many processors, "" when it is not."""
    if load <= BUSY * processors:
        return ""
    return (
        f"this machine was busy (load average {load:.1f} on {processors} processors): late telemetry is not acted upon; "
        "stop what else runs, then play it again"
    )


def busy_now() -> str:
    """Return the sentence about this machine in the last minute."""
    return busy(os.getloadavg()[0], os.cpu_count() or 1)
