from __future__ import annotations

import random

from proxy.backoff import Backoff


def _backoff() -> Backoff:
    return Backoff(base_s=0.1, cap_s=5.0, first_s=0.01, steady_s=30.0, random=random.Random(7))


def test_first_failure_is_retried_at_once() -> None:
    """What failed once is tried again almost immediately."""
    assert 0.0 <= _backoff().failed() <= 0.01


def test_delays_grow_to_the_cap() -> None:
    """Each further delay lies in the upper half of a doubling ceiling that ends at the cap."""
    backoff = _backoff()
    backoff.failed()
    for ceiling in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0):
        assert ceiling / 2 <= backoff.failed() <= ceiling


def test_never_overflows() -> None:
    """A sidecar that fails for weeks still gets a delay."""
    backoff = _backoff()
    assert max(backoff.failed() for _ in range(5000)) <= 5.0


def test_good_running_forgets() -> None:
    """Thirty good seconds make the next failure a first one; less does not."""
    backoff = _backoff()
    for _ in range(5):
        backoff.failed()
    assert backoff.failed(ran_s=29.9) > 0.1
    assert backoff.failed(ran_s=30.0) <= 0.01


def test_jitter_spreads() -> None:
    """Two sidecars that fail together do not come back together."""
    one, two = (Backoff(random=random.Random(seed)) for seed in (1, 2))
    delays = [[backoff.failed() for _ in range(4)] for backoff in (one, two)]
    assert all(first != second for first, second in zip(delays[0][1:], delays[1][1:], strict=True))
