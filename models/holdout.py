"""Did the act help, or did the fault pass by itself? Those treated against a slice left untreated, at the same time.

Two arms, one question: does a request of the untreated slice turn out bad more often than a treated one of the same
moment? The evidence is the anytime-valid two-sample bet of `models.canary.proportions` (Turner, Ly, Grünwald 2021): if
both arms fail alike, it exceeds `ODDS` with probability at most 1/`ODDS` however often one looks, and a fault that
comes and goes for both shifts nothing. Assumes that chance decides which arm a request falls into.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from models.canary.proportions import WORSE_BETS, Pairing, worse
from models.canary.wealth import Wealth
from models.detect.baseline import Baseline
from models.incident import Signal
from models.signals import Outcomes
from models.verify import ODDS, Verdict, bad_of, judge

EVIDENCE_NATS: Final = math.log(ODDS)
"""Evidence at which the slice counts as worse off than the treated."""


class Effect(StrEnum):
    """What the slice says about the act."""

    HELPED = "helped"  # the untreated still suffer, the treated do not
    PASSED = "passed"  # the untreated are well again too: it would have passed without the act
    OPEN = "open"  # too few requests to tell


@dataclass(frozen=True, slots=True)
class Contrast:
    """What was seen of both arms. `bad` are failed (or, for latency, too slow) requests; `nats` the log evidence."""

    effect: Effect = Effect.OPEN
    treated: int = 0
    treated_bad: int = 0
    untreated: int = 0
    untreated_bad: int = 0
    nats: float = 0.0

    def numbers(self) -> Mapping[str, float]:
        """Return the figures for the record, by name."""
        return {
            "holdout_treated": float(self.treated),
            "holdout_treated_bad": float(self.treated_bad),
            "holdout_untreated": float(self.untreated),
            "holdout_untreated_bad": float(self.untreated_bad),
            "holdout_nats": self.nats,
        }

    def __str__(self) -> str:
        """Render for people: `3 of 12 untreated requests bad, 0 of 480 treated`."""
        arms = f"{self.untreated_bad} of {self.untreated} untreated requests bad, {self.treated_bad} of {self.treated} treated"
        match self.effect:
            case Effect.HELPED:
                return f"measured on a hold-out slice: {arms}"
            case Effect.PASSED:
                return f"the hold-out slice is well too, so it had passed without the act: {arms}"
            case Effect.OPEN:
                return f"the hold-out slice was too small to tell: {arms}"


class HoldOutTest:
    """Collects both arms tick by tick.

    Example:
        >>> test = HoldOutTest(Signal.ERRORS, Baseline(Signal.ERRORS, 0.0, np.zeros(1), 0.02, 0.05, 50.0, 1000.0))
        >>> for tick in range(10):
        ...     test.add(Outcomes(requests=40), Outcomes(requests=2, errors=1), 0.2)
        >>> str(test.contrast().effect), str(test.contrast())
        ('helped', 'measured on a hold-out slice: 10 of 20 untreated requests bad, 0 of 400 treated')
    """

    def __init__(self, signal: Signal, baseline: Baseline) -> None:
        self._signal = signal
        self._baseline = baseline
        self._pairing = Pairing((1, 1))
        self._wealth = Wealth((1, 1), len(WORSE_BETS))
        self._spared = Outcomes()
        self._cured = Outcomes()
        self._treated = (0, 0)
        self._untreated = (0, 0)

    def add(self, treated: Outcomes, untreated: Outcomes, elapsed_s: float) -> None:
        """Take what came in of both arms during the same `elapsed_s` seconds."""
        well = bad_of(self._baseline, treated, self._signal)
        sick = bad_of(self._baseline, untreated, self._signal)
        self._spared += untreated
        self._cured += treated
        self._treated = (self._treated[0] + well[1], self._treated[1] + well[0])
        self._untreated = (self._untreated[0] + sick[1], self._untreated[1] + sick[0])
        cells = [np.full((1, 1), float(count)) for count in (sick[1], sick[0], well[1], well[0])]
        ratio = self._pairing.ratio(cells[0], cells[2], elapsed_s)
        gains = worse((cells[0], cells[1]), (cells[2], cells[3]), ratio, 0.0)
        self._wealth.add(gains, elapsed_s=elapsed_s)

    def contrast(self) -> Contrast:
        """Return what both arms say so far."""
        nats = float(self._wealth.log()[0, 0])
        effect = Effect.OPEN
        if nats >= EVIDENCE_NATS:
            effect = Effect.HELPED
        elif judge(self._baseline, self._spared, self._signal, 0.0).verdict is Verdict.RECOVERED:
            effect = Effect.PASSED
        return Contrast(effect, *self._treated, *self._untreated, nats)

    def treated_is_bad(self) -> bool:
        """Tell whether the treated themselves are clearly off their baseline."""
        return judge(self._baseline, self._cured, self._signal, 0.0).verdict is Verdict.STILL_BAD
