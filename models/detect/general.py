"""A detector for any single metric: strictly causal, no setting to choose, no knowledge of the metric's range.

It asks a series a dozen different questions at several time scales (`general_views`), weighs each answer against that question's own
past (`general_records`), adds the surprise of different kinds, and speaks once per phase of an episode (`general_onset`).

Sources: rank-based surprise from conformal prediction (Vovk, Gammerman & Shafer, *Algorithmic Learning in a Random World*,
2005); record statistics (Arnold, Balakrishnan & Nagaraja, *Records*, 1998); adding log p-values (Fisher 1932). The corpus and score it
is measured with: Lavin & Ahmad, *Evaluating Real-time Anomaly Detection Algorithms*, 2015.

Assumes that trouble looks unlike anything of the last weeks in at least one of those ways, and that samples come at a roughly
steady pace (window lengths count samples). It does not assume a distribution, a period other than the day, or stationarity.
Feed rates, not raw counters: the reset of a counter is a real jump of its value.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Final

from pydantic import TypeAdapter, ValidationError

from models.detect.general_onset import Onset
from models.detect.general_profile import BINS, DayProfile
from models.detect.general_records import Records
from models.detect.general_views import STATISTICS, Views
from models.detect.general_windows import RING, Windows
from models.errors import InvalidInput

FORMAT: Final = 3

HALF: Final = 5.4
"""Decades of surprise, over all kinds of evidence, that score 0.5."""

LARGEST: Final = 1e150
"""Values are clipped to ± this, so that no sum overflows."""


@dataclass(slots=True)
class _State:
    format: int = FORMAT
    views: Views = field(default_factory=Views)
    records: Records = field(default_factory=Records)
    onset: Onset = field(default_factory=Onset)


_CODEC: Final = TypeAdapter(_State)


class GeneralDetector:
    """Scores one series, sample by sample.

    Scale and shift of the values do not change the scores (beyond rounding); shifting all timestamps by whole days
    does not either. The state has a fixed size (about 25 kB saved), is saved and restored bit-exactly, and holds no randomness.

    >>> from random import Random
    >>> random, detector = Random(1), GeneralDetector()
    >>> quiet = [detector.update(60.0 * k, random.gauss(10.0, 1.0)) for k in range(2000)]
    >>> max(quiet) < 0.5
    True
    >>> detector.update(60.0 * 2000, 40.0) > 0.5
    True
    >>> detector.update(60.0 * 2001, 40.0) > 0.5  # the same episode: no second alarm
    False
    """

    def __init__(self) -> None:
        self._state = _State()

    def update(self, timestamp: float, value: float) -> float:
        """Return the score of one sample in [0, 1]: 0 nothing new, 0.5 worth an alarm, towards 1 unlike anything before.

        `timestamp` in seconds (only its time of day is used, so gaps, duplicates and steps back are harmless). A sample
        whose value or timestamp is NaN or infinite is missing: it scores 0 and changes nothing.
        """
        if not (isfinite(value) and isfinite(timestamp)):
            return 0.0
        state = self._state
        x = min(max(float(value), -LARGEST), LARGEST)
        statistics = state.views.measure(timestamp, x)
        surprise = state.records.surprise(
            statistics,
            floor=state.views.floor(),
            compared=state.views.profile.known,
            onset=state.onset,
        )
        return surprise / (surprise + HALF) if state.onset.passes(surprise) else 0.0

    def save(self) -> bytes:
        """Return the whole state; equal states give equal bytes."""
        return json.dumps(asdict(self._state), sort_keys=True, separators=(",", ":")).encode()

    def restore(self, saved: bytes) -> None:
        """Continue from what `save` returned; nothing changes when it cannot be read.

        Raises:
            InvalidInput: the bytes are damaged or of another format (start cold then).
        """
        try:
            state = _CODEC.validate_json(saved)
            _check(state, json.loads(saved))
        except (ValidationError, ValueError) as error:
            raise InvalidInput(
                f"state of a general detector cannot be read: {error}", hint="delete it; the detector learns anew"
            ) from error
        self._state = state


def _fields(state: object) -> object:
    """Return the names in a saved state, level by level."""
    return {name: _fields(part) for name, part in state.items()} if isinstance(state, dict) else None


def _check(state: _State, saved: object) -> None:
    """Raise ValueError where a field is missing or unknown, or a list has another length than this version writes."""
    if _fields(saved) != _fields(asdict(state)):
        raise ValueError("fields are missing, or there are more")
    fresh = Views()
    views = state.views
    if state.format != FORMAT:
        raise ValueError(f"format {state.format}, wanted {FORMAT}")
    for name, windows, like in (
        ("values", views.values, fresh.values),
        ("steps", views.steps, fresh.steps),
        ("residuals", views.residuals, fresh.residuals),
        ("deviations", views.deviations, fresh.deviations),
    ):
        _check_windows(name, windows, like)
    _check_profile(views.profile)
    records = state.records
    lists = (records.top, records.recent, records.records, records.ratios, records.base, records.since)
    if {len(x) for x in lists} != {STATISTICS}:
        raise ValueError(f"records of {len(records.top)} statistics, wanted {STATISTICS}")


def _check_windows(name: str, windows: Windows, like: Windows) -> None:
    if windows.scales != like.scales or len(windows.ring) != RING or not 0 <= windows.at < RING:
        raise ValueError(
            f"{name}: a ring of {len(windows.ring)} with scales {windows.scales}, wanted {RING}, {like.scales}"
        )
    if not len(windows.sums) == len(windows.before) == len(like.scales):
        raise ValueError(f"{name}: {len(windows.sums)} sums, wanted {len(like.scales)}")


def _check_profile(profile: DayProfile) -> None:
    if not len(profile.means) == len(profile.visits) == BINS or not -1 <= profile.current < BINS:
        raise ValueError(f"daily profile of {len(profile.means)} bins, wanted {BINS}")
