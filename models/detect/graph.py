"""Who calls whom, as the reported series tell it: enough to know whom a slow service would slow."""

from __future__ import annotations


class Graph:
    """Services by number and their callers. Grows as calls are seen; nothing is ever taken back."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.edges: set[tuple[int, int]] = set()
        self._callers: dict[int, set[int]] = {}
        self._upstream: dict[int, frozenset[int]] = {}
        self._callees: dict[int, set[int]] = {}

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
