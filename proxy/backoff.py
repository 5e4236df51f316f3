"""How long to wait before the next attempt: exponential, with jitter, forgetting after a good while.

Jitter keeps a hundred sidecars that lost the same control plane from coming back in the same millisecond
(full jitter: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays drawn evenly from the upper half of `base_s · 2ⁿ`, at most `cap_s`. Seconds everywhere.

    The first delay after `reset` is at most `first_s`: what fails once usually works at once. `steady_s` of good
    running forgets the failures before.
    """

    base_s: float = 0.1
    cap_s: float = 10.0
    first_s: float = 0.0
    steady_s: float = 30.0
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def failed(self, ran_s: float = 0.0) -> float:
        """Count a failure after `ran_s` seconds of good running; return how long to wait."""
        if ran_s >= self.steady_s:
            self.reset()
        self.failures += 1
        if self.failures == 1:
            return self.random.uniform(0.0, self.first_s)
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(self.failures - 2, 32))
        return self.random.uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        """Forget all failures."""
        self.failures = 0
