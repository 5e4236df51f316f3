"""What a detector says of one row that is anomalous, before it has a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SUSPICION_NATS: Final = 4.6
"""Evidence (natural log) above which a series is too suspicious to learn from: an e-value of 100."""

QUIET_NATS: Final = 4.6
"""Evidence in favour of the baseline at which an episode ends."""

QUIET_S: Final = 2.0
"""Shortest quiet that ends an episode, seconds."""

SILENT_S: Final = 60.0
"""An episode whose series carried no request for this long ends: there is nothing left that could be anomalous."""

HOLD_S: Final = 60.0
"""A suspicion that neither alarms nor fades for this long is the new normal: learn from it."""

MAX_NATS: Final = 700.0
"""Evidence is kept below the overflow of exp."""

ROUNDING: Final = 1e-3
"""Evidence is kept in single precision; differences below this say nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`onset` Unix s; `observed` and `expected` in the signal's unit; `nats` natural-log evidence; `requests` since onset."""

    onset: float
    observed: float
    expected: float
    nats: float
    requests: int
