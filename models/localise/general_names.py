"""What a metric of somebody else's mesh is about, told from its name alone.

Names come as `service|metric`, the metric as its exporter spelt it: `latency_Average`, `server_p90`, `cpu`,
`sou_p50<caller` (seen by one caller). Only well-known words are read; what has none of them is `OTHER`, never an error.

    >>> read("cart|latency_p99").kind, read("cart|latency_p99").order
    (<Kind.LATENCY: 'latency'>, 99)
    >>> read("cart|sou_p50<frontend").peer
    'frontend'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a series measures. Errors are shares or counts of failed requests, availability their complement."""

    LATENCY = "latency"
    ERRORS = "errors"
    AVAILABILITY = "availability"
    TRAFFIC = "traffic"
    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    OTHER = "other"
    ASIDE = "aside"  # tells of a neighbour or the machine rather than of this service: egress latency, node, bytes


RESOURCES: Final = (Kind.CPU, Kind.MEMORY, Kind.DISK, Kind.OTHER)
"""Kinds that show a fault where it is: they do not travel along the calls."""

MEAN: Final = 0
_WORDS: Final = (
    (Kind.ASIDE, re.compile(r"^node|^client|^egress|_?net(work)?(_|$)|bytes|packet")),
    (Kind.AVAILABILITY, re.compile(r"avail|success")),
    (Kind.ERRORS, re.compile(r"err|fail|5xx")),
    (Kind.LATENCY, re.compile(r"latency|duration|response|(^|_)rt(_|$)|(^|[^a-z])p\d\d")),
    (Kind.TRAFFIC, re.compile(r"request|workload|load|qps|rps|ops|traffic|calls|count")),
    (Kind.CPU, re.compile(r"cpu")),
    (Kind.MEMORY, re.compile(r"mem|heap|rss")),
    (Kind.DISK, re.compile(r"disk|(^|_)fs|iops")),
)
_POD: Final = re.compile(r"^(?P<service>.+?)(-[0-9a-f]{6,10}-[0-9a-z]{5}|-[0-9a-f]{8,10})$")
_QUANTILE: Final = re.compile(r"(\d\d)(?!.*\d)")


@dataclass(frozen=True, slots=True)
class Name:
    """One series' name, read. `order` is 0 for a mean, else the percentile (50, 90, 99; 1 when the name has none).

    `view` tells apart several sightings of one quantity (`sou` at the caller, `des` or `server` at the callee).
    """

    service: str
    metric: str
    kind: Kind
    view: str
    peer: str
    order: int


def read(name: str) -> Name:
    """Return what `service|metric` is about; a name without `|` is a service with an `OTHER` metric."""
    service, _, metric = name.partition("|")
    lower = metric.lower()
    head, _, _ = lower.partition("<")
    _, _, peer = metric.partition("<")
    kind = next((kind for kind, word in _WORDS if word.search(head)), Kind.OTHER)
    if re.search(r"avg|average|mean", head):
        order = MEAN
    else:
        found = _QUANTILE.search(head)
        order = int(found.group(1)) if found else 1
    return Name(service, metric, kind, re.split(r"[_\-.]", head)[0], peer, order)


def home(name: str) -> str:
    """Return the service a pod belongs to: `cart-579b9bff58-t2dbm` → `cart`; other names as they are."""
    found = _POD.match(name)
    return found.group("service") if found else name
