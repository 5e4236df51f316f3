"""Errors and slow requests come in clusters: how large are they, seen at the stable version's instances?

A reset connection fails all requests on it, a paused process slows all it holds. Such a cluster is one event, and evidence
that counted it as many would be wrong; so evidence is divided by the cluster size `D` (a bet's factor to the power `1/D`
still has expectation ≤ 1 when `D` requests fall together, by Jensen's inequality).

`D` is learnt from how unevenly the stable version's bad requests fall on its instances *within* a short time, given their
total: `Σ e_i(e_i − 1)` beyond `e(e−1)·Σ n_i(n_i−1)/(n(n−1))`, per error. A burst that hits everybody is no cluster in this
sense (the pairing already takes it out), and the canary's own errors never count, or a bad canary would hide itself.
With one stable instance nothing can be learnt, and `prior` stays.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.detect.baseline import FloatArray

LARGEST: Final = 30.0
PRIOR_EVENTS: Final = 5.0


class Clusters:
    """Cluster size for each cell of an array of shape `cells`, starting at `prior`."""

    def __init__(self, cells: tuple[int, ...], prior: float) -> None:
        self.prior = prior
        self.events: FloatArray = np.zeros(cells)
        self.excess: FloatArray = np.zeros(cells)

    def learn(self, trials: FloatArray, events: FloatArray) -> None:
        """Take requests and bad ones per stable instance (last axis) of one short time."""
        total, n = events.sum(axis=-1), trials.sum(axis=-1)
        pairs = np.maximum(n * (n - 1), 1.0)
        alike = (trials * (trials - 1)).sum(axis=-1) / pairs
        several = (trials > 0).sum(axis=-1) > 1
        excess = (events * (events - 1)).sum(axis=-1) - total * (total - 1) * alike
        self.events += np.where(several, total, 0.0)
        self.excess += np.where(several, excess, 0.0)

    def size(self) -> FloatArray:
        """Return the cluster size, 1–`LARGEST`, by cell."""
        pairs = np.maximum(self.excess, 0.0) + PRIOR_EVENTS * (self.prior - 1)
        size: FloatArray = np.clip(1 + pairs / (self.events + PRIOR_EVENTS), 1.0, LARGEST)
        return size

    def grow(self, strata: int) -> None:
        """Make room for more strata (second axis)."""
        add = [(0, 0)] * self.events.ndim
        add[1] = (0, max(0, strata - self.events.shape[1]))
        self.events, self.excess = np.pad(self.events, add), np.pad(self.excess, add)


def retry_chain(requests: FloatArray, attempts: FloatArray, errors: FloatArray) -> FloatArray:
    """Return how many failed attempts belong to one failed request, 1–4, from totals of a caller's requests and attempts.

    Of the failed attempts a share `x` was tried again; failing again and again with `x` makes chains of `(1+x)/(1−x)`.
    """
    again = np.clip((attempts - requests) / np.maximum(errors, 1.0), 0.0, 0.6)
    chain: FloatArray = (1 + again) / (1 - again)
    return chain
