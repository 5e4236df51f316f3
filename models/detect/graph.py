"""Who calls whom, as the reported series tell it: enough to know whom a slow service would slow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.detect.baseline import BoolArray, IntArray


class Graph:
    """Services by number and their callers. Grows as calls are seen; nothing is ever taken back."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.edges: set[tuple[int, int]] = set()
        self._callers: dict[int, set[int]] = {}
        self._upstream: dict[int, frozenset[int]] = {}
        self._callees: dict[int, set[int]] = {}
        self._reached: dict[int, IntArray] = {}
        self._calls: dict[int, IntArray] = {}

    def number(self, service: str) -> int:
        """Return the number of `service`, a new one when it was never seen."""
        return self.numbers.setdefault(service, len(self.numbers))

    def add(self, caller: int, callee: int) -> None:
        """Note that `caller` calls `callee`."""
        if caller != callee and (caller, callee) not in self.edges:
            self.edges.add((caller, callee))
            self._callers.setdefault(callee, set()).add(caller)
            self._callees.setdefault(caller, set()).add(callee)
            self._upstream.clear()
            self._reached.clear()
            self._calls.pop(caller, None)

    def callees(self, service: int) -> tuple[int, ...]:
        """Return the services that `service` calls directly, ascending."""
        return tuple(sorted(self._callees.get(service, ())))

    def upstream(self, service: int) -> frozenset[int]:
        """Return the services that call `service`, directly or through others, never itself."""
        known = self._upstream.get(service)
        if known is None:
            found: set[int] = set()
            todo = [service]
            while todo:
                new = self._callers.get(todo.pop(), set()) - found
                found |= new
                todo += new
            known = self._upstream[service] = frozenset(found - {service})
        return known

    def reached(self, service: int) -> IntArray:
        """Return the numbers of `service` and of all that call it, directly or through others."""
        known = self._reached.get(service)
        if known is None:
            known = self._reached[service] = np.asarray([service, *sorted(self.upstream(service))], dtype=np.int64)
        return known

    def calls(self, services: IntArray, size: int) -> tuple[IntArray, IntArray]:
        """Return whom each of `services` calls directly, as pairs (position in `services`, callee); callees below `size`."""
        return _pairs([self._called(service) for service in services.tolist()], size)

    def elsewhere(self, services: IntArray, size: int) -> BoolArray:
        """Return which of `size` services a fault of each of `services` would not reach, shape (len(services), size)."""
        found = np.ones((len(services), size), dtype=np.bool_)
        found[_pairs([self.reached(service) for service in services.tolist()], size)] = False
        return found

    def _called(self, service: int) -> IntArray:
        known = self._calls.get(service)
        if known is None:
            known = self._calls[service] = np.asarray(self.callees(service), dtype=np.int64)
        return known


def _pairs(lists: Sequence[IntArray], size: int) -> tuple[IntArray, IntArray]:
    """Return lists of numbers as (which list, number) for numbers below `size`."""
    if not lists:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    line = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    number = np.concatenate(lists)
    inside = number < size
    return line[inside], number[inside]
