"""One event is not enough: evidence must not come from a single moment.

A reset connection or a paused process makes an instance fail everything for half a second, in any version. As long as the
stable version has not shown how large such clusters are (`models.canary.clusters`), that moment would look like a bad canary.
So of the evidence `A` the part that did not come in the best `window_s` seconds must reach a share of what is needed:
confirmed evidence is `min(A, (A − best gain within the window) / share)`. It is never more than `A`, so no guarantee is touched.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from models.detect.baseline import FloatArray


class Confirmation:
    """Confirmed evidence for each lane.

    Example:
        >>> check = Confirmation(np.zeros(1), window_s=0.6, share=0.25)
        >>> for evidence in (0.0, 9.0, 9.0, 9.0, 9.0, 12.0):
        ...     check.add(np.asarray([evidence]), 0.2)
        >>> float(check.value[0])  # 9 of the 12 nats came at once
        12.0
    """

    def __init__(self, start: FloatArray, window_s: float, share: float) -> None:
        self._share = share
        self.value: FloatArray = start.copy()
        self.best: FloatArray = np.zeros_like(start)
        self._window_s = window_s
        self._now = 0.0
        self._past: deque[tuple[float, FloatArray]] = deque([(0.0, start.copy())])

    def add(self, evidence: FloatArray, elapsed_s: float) -> None:
        """Take the log evidence, shape (lanes,), after `elapsed_s` more seconds."""
        self._now += elapsed_s
        while len(self._past) > 1 and self._past[1][0] <= self._now - self._window_s + 1e-9:
            self._past.popleft()
        gain = evidence - self._past[0][1]
        self._past.append((self._now, evidence))
        self.best = np.where(evidence <= 0, 0.0, np.maximum(self.best, gain))
        self.value = np.where(evidence <= 0, evidence, np.minimum(evidence, (evidence - self.best) / self._share))
