"""Bad events of both versions, tick by tick: failed attempts over attempts, ejections over instances.

Holds, for each lane (one canary; a simulation runs many beside each other) and stratum (caller), the bets of
`models.canary.proportions`: against the canary in all strata together and in each alone, and for it in all together.
"""

from __future__ import annotations

from typing import Final

from models.canary.clusters import Clusters
from models.canary.confirm import Confirmation
from models.canary.proportions import FINE_BETS, WORSE_BETS, Pairing, within, worse
from models.canary.wealth import Wealth, mix_strata
from models.detect.baseline import FloatArray

CELL_S: Final = 2.0
"""Errors this near each other on one instance may be one event."""

PRIOR_SIZE: Final = 1.2

MOMENT_S: Final = 0.6
ELSEWHERE: Final = 0.2
"""Errors of one such moment do not convict: so much of the evidence must come from elsewhere."""


class PairedEvents:
    """Sequential comparison of two ratios of bad events, stratified and paired in time.

    Example:
        >>> import numpy as np
        >>> test = PairedEvents((1, 1), margin=0.005)
        >>> for tick in range(6):  # 10 requests of the canary, 90 of the stable version; 2 of the 10 fail
        ...     test.add((np.full((1, 1), 10.0), np.full((1, 1), 2.0)), (np.full((1, 1), 90.0), np.zeros((1, 1))), 0.2)
        >>> bool(test.against()[0] > 6.9)  # odds of 1000 to 1 that it is worse by more than half a point
        True
    """

    def __init__(
        self, cells: tuple[int, int], margin: float, *, prior_size: float = PRIOR_SIZE, moment_s: float = MOMENT_S
    ) -> None:
        lanes, _ = cells
        self.margin = margin
        self.pairing = Pairing(cells)
        self.clusters = Clusters(cells, prior_size)
        self.pooled = Wealth((lanes, 1), len(WORSE_BETS))
        self.alone = Wealth(cells, len(WORSE_BETS))
        self.fine = Wealth((lanes, 1), len(FINE_BETS))
        self.confirmed = Confirmation(self._total(), moment_s, ELSEWHERE)
        self._cell: tuple[FloatArray, FloatArray] | None = None
        self._cell_s = 0.0

    def add(
        self,
        canary: tuple[FloatArray, FloatArray],
        stable: tuple[FloatArray, FloatArray],
        elapsed_s: float,
        *,
        instances: tuple[FloatArray, FloatArray] | None = None,
        chain: FloatArray | None = None,
    ) -> None:
        """Take one tick.

        Args:
            canary: (trials, bad ones), each of shape (lanes, strata).
            stable: the same of the stable version.
            elapsed_s: seconds since the tick before.
            instances: the stable version's (trials, bad ones) by instance on a last axis, to learn cluster sizes from.
            chain: bad trials that belong to one (retries), at least 1.
        """
        size = self.clusters.size() * (1.0 if chain is None else chain)
        ratio = self.pairing.ratio(canary[0], stable[0], elapsed_s)
        against = worse(canary, stable, ratio, self.margin) / size[..., None]
        fair = within(canary, stable, ratio, self.margin) / size[..., None]
        self.pooled.add(against.sum(axis=1, keepdims=True), elapsed_s=elapsed_s)
        self.alone.add(against, elapsed_s=elapsed_s)
        self.fine.add(fair.sum(axis=1, keepdims=True), elapsed_s=elapsed_s)
        self.confirmed.add(self._total(), elapsed_s)
        if instances is not None:
            self._collect(instances, elapsed_s)

    def against(self) -> FloatArray:
        """Return the log evidence that the canary is worse than its margin, shape (lanes,)."""
        return self.confirmed.value

    def in_favour(self) -> FloatArray:
        """Return the log evidence, since the last `step`, that it is within its margin, shape (lanes,)."""
        return self.fine.log()[:, 0]

    def step(self) -> None:
        """Begin a new step: other shares of traffic, and the canary has to prove itself anew."""
        self.pairing.forget()
        self.fine = Wealth((self.fine.value.shape[0], 1), len(FINE_BETS))

    def grow(self, strata: int) -> None:
        """Make room for more strata."""
        for part in (self.pairing, self.clusters, self.alone):
            part.grow(strata)
        self._cell = None

    def _total(self) -> FloatArray:
        return mix_strata(self.pooled.log()[:, 0], self.alone.log())

    def _collect(self, instances: tuple[FloatArray, FloatArray], elapsed_s: float) -> None:
        self._cell_s += elapsed_s
        if self._cell is not None and self._cell[0].shape == instances[0].shape:
            instances = (self._cell[0] + instances[0], self._cell[1] + instances[1])
        self._cell = instances
        if self._cell_s >= CELL_S:
            self.clusters.learn(*instances)
            self._cell, self._cell_s = None, 0.0
