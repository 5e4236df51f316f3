"""Honest attribution: which instance spoiled a request.

Whoever injects a fault knows it, the one who only watches the edge does not. So an instance under an injected fault names
itself in the header `x-shop-trouble`, callers pass on what their callees named, and a caller that got no answer *from the
shop* (connection refused, time-out, an error made by the mesh) names the callee's service. The load generator can
then tell a request missed because of the fault from one missed for another reason. The mesh and its agent never look at
the header: it carries no meaning for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

TROUBLE: Final = "x-shop-trouble"
INSTANCE: Final = "x-shop-instance"
SERVER_ERROR: Final = 500


def named(headers: Mapping[str, str]) -> frozenset[str]:
    """Return the names in a trouble header (empty when there is none)."""
    return frozenset(name.strip() for name in headers.get(TROUBLE, "").split(",") if name.strip())


def header(names: Iterable[str]) -> str:
    """Render names for the header: sorted, so that equal sets are equal text."""
    return ",".join(sorted(names))


def of_answer(callee: str, status: int, headers: Mapping[str, str]) -> frozenset[str]:
    """Return who is to blame for one answer from `callee`: those it names, or itself if only the mesh answered."""
    if status >= SERVER_ERROR and INSTANCE not in headers:
        return named(headers) | {callee}
    return named(headers)
