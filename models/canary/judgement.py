"""What a comparison says: the verdict with the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What to do with a canary, as far as the numbers say."""

    PROMOTE = "promote"  # proven to be within its margins: it may go on to the next step
    ROLL_BACK = "roll-back"  # proven to be worse than its margins
    KEEP_LOOKING = "keep-looking"  # neither is proven (yet)


@dataclass(frozen=True, slots=True)
class SignalEvidence:
    """One signal's numbers since the canary began (requests) and its evidence (natural logs).

    `signal` is errors, latency, ejections or saturation. `canary` and `stable` are error ratios 0–1, medians in seconds,
    ejections, or levels 0–1 (NaN: not known). `against` counts for rolling back (0: as likely as not), `in_favour`, since the
    step began, for promotion (NaN: not asked for).
    """

    signal: str
    canary: float
    stable: float
    against: float
    in_favour: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict. `reason` is one sentence for people.

    `requests` and `stable_requests` are attempts seen since the step began. `against` is the evidence of all signals together,
    to be held against `Risk.rollback_nats`. `shared_trouble`: the stable version fails a lot too, right now.
    """

    verdict: Verdict
    reason: str
    signals: tuple[SignalEvidence, ...]
    requests: int
    stable_requests: int
    against: float
    shared_trouble: bool = False
