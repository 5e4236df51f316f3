"""What must hold between resources: no dangling subset, no host claimed twice. Pure.

Always judged over the whole set as it would be after the change, so that one `apply` may bring a route together with
the subsets it needs, and a `delete` that would break a route is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from control.resources.canary import Canary
from control.resources.loading import Declared, Key
from control.resources.objective import ServiceLevelObjective, prefixes, rule_name
from control.resources.schema import DestinationRule, VirtualService, WeightedDestination, named_rules, weights
from models.errors import Problem
from models.manifest import Path, suggest
from models.objective import Objective

_PERCENTS: Final = 100
_MEANT: Final = (50, 150)
"""Weights that add up to so much look like percents; 1 and 3, say, are a plain ratio."""


def check(declared: Mapping[Key, Declared]) -> tuple[Problem, ...]:
    """Return what is wrong between the resources of a whole set; empty when it is sound."""
    rules: dict[str, DestinationRule] = {}
    owners: dict[str, Declared] = {}
    problems: list[Problem] = []
    services = [(key, declared[key]) for key in sorted(declared)]
    for _, item in services:
        match item.model:
            case DestinationRule() as rule:
                host = item.host(rule.spec.host)
                path: Path = ("spec", "host")
                problems.extend(_claim(owners, f"rule for {host}", item, path))
                rules[host] = rule
            case VirtualService() as route:
                for index, text in enumerate(route.spec.hosts):
                    problems.extend(_claim(owners, f"host {item.host(text)}", item, ("spec", "hosts", index)))
            case Canary() as canary:
                service = item.host(canary.spec.service)
                problems.extend(_claim(owners, f"canary of {service}", item, ("spec", "service")))
            case ServiceLevelObjective():
                pass  # several of one service are usual
    tables = route_tables(declared)
    for _, item in services:
        if isinstance(item.model, VirtualService):
            problems.extend(_routes(item, item.model, rules))
        if isinstance(item.model, ServiceLevelObjective):
            problems.extend(_rule(item, item.model, tables))
    return tuple(problems)


def route_tables(declared: Mapping[Key, Declared]) -> Mapping[str, VirtualService]:
    """Return the VirtualServices by the service they route to."""
    found = {}
    for item in declared.values():
        if isinstance(item.model, VirtualService):
            _, first = next(destinations(item.model))
            found[item.host(first.destination.host)] = item.model
    return found


def warnings(declared: Mapping[Key, Declared], services: Collection[str]) -> tuple[Problem, ...]:
    """Return what is worth a second look: hosts that no instance serves yet, rules that no request reaches."""
    found: list[Problem] = []
    for key in sorted(declared):
        item = declared[key]
        match item.model:
            case DestinationRule() as rule:
                found.extend(_unknown(item, rule.spec.host, ("spec", "host"), services))
            case VirtualService() as route:
                path, first = next(destinations(route))
                found.extend(_unknown(item, first.destination.host, (*path, "destination", "host"), services))
                found.extend(_reach(item, route))
                found.extend(_shares(item, route))
            case Canary() as canary:
                found.extend(_unknown(item, canary.spec.service, ("spec", "service"), services))
            case ServiceLevelObjective() as promise:
                found.extend(_unknown(item, promise.spec.service, ("spec", "service"), services))
                found.extend(_between(item, promise))
    return tuple(found)


def destinations(route: VirtualService) -> Iterator[tuple[Path, WeightedDestination]]:
    """Yield every destination with its place."""
    for i, rule in enumerate(route.spec.http):
        for j, destination in enumerate(rule.route):
            yield ("spec", "http", i, "route", j), destination


def _claim(owners: dict[str, Declared], what: str, item: Declared, path: Path) -> Iterator[Problem]:
    first = owners.setdefault(what, item)
    if first is not item:
        message = f"{first.kind}/{first.name} already has the {what}"
        yield item.problem(path, message, hint="only one resource may have it; merge the two")


def _routes(item: Declared, route: VirtualService, rules: Mapping[str, DestinationRule]) -> Iterator[Problem]:
    hosts = [item.host(host) for host in route.spec.hosts]
    target = ""
    for path, destination in destinations(route):
        host = item.host(destination.destination.host)
        target = target or host
        place: Path = (*path, "destination")
        if host != target:
            message = f"routes to `{host}` and to `{target}`: one VirtualService for two services is not supported yet"
            yield item.problem((*place, "host"), message, hint="write one VirtualService per service")
        elif host not in hosts:
            message = f"routes to `{host}`, which is not among its hosts: this is not supported yet"
            yield item.problem((*place, "host"), message, hint=f"add `{host}` to spec.hosts")
        subset = destination.destination.subset
        names = [known.name for known in rules[host].spec.subsets] if host in rules else []
        if subset and subset not in names:
            message = f"the subset `{subset}` of `{host}` is declared in no DestinationRule"
            hint = suggest(subset, names) or f"declare it in a DestinationRule for {host}: spec.subsets"
            yield item.problem((*place, "subset"), message, hint=hint)
    for i, rule in enumerate(route.spec.http):
        if len({bool(entry.destination.subset) for entry in rule.route}) > 1:
            message = "one destination has a subset and another has none, so their shares overlap"
            yield item.problem(("spec", "http", i, "route"), message, hint="give each destination its subset")


def _rule(item: Declared, promise: ServiceLevelObjective, tables: Mapping[str, VirtualService]) -> Iterator[Problem]:
    """Find the rule that an objective speaks of: requests are counted per rule of the route table."""
    wanted, service = promise.spec.route, item.host(promise.spec.service)
    if wanted is None:
        return
    path: Path = ("spec", "route", "prefix" if wanted.prefix else "name")
    table = tables.get(service)
    if table is None:
        message = f"{service} has no VirtualService, so its requests are not told apart by route"
        yield item.problem(path, message, hint="declare one with such a rule, or drop `route`")
        return
    if rule_name(wanted, table) is not None:
        return
    named = named_rules(table.spec.http)
    known = [p for _, rule in named for p in prefixes(rule)] if wanted.prefix else [name for name, _ in named]
    what = f"matches the prefix `{wanted.prefix}`" if wanted.prefix else f"is named `{wanted.name}`"
    hint = suggest(wanted.prefix or wanted.name, known) or "add it to spec.http with `match: [{uri: {prefix: ...}}]`"
    yield item.problem(path, f"no rule of the VirtualService of {service} {what}", hint=hint)


def _between(item: Declared, promise: ServiceLevelObjective) -> Iterator[Problem]:
    """Say when a threshold is counted with less: latencies come in buckets."""
    threshold = promise.spec.threshold
    if threshold is None:
        return
    counted = Objective("", "", "latency", 0.9, 1.0, threshold_s=threshold).effective_s
    if counted < threshold * (1 - 1e-6):
        message = f"latencies come in buckets: a request counts as good up to {1000 * counted:g}ms"
        yield item.problem(("spec", "threshold"), message, hint=f"write {1000 * counted:g}ms to say what is counted")


def _unknown(item: Declared, host: str, path: Path, services: Collection[str]) -> Iterator[Problem]:
    service = item.host(host)
    if service not in services:
        hint = suggest(service, sorted(services)) if services else "no instance has registered yet"
        hint = hint if hint.startswith("did") else "it takes effect once an instance registers"
        yield item.problem(path, f"no instance of `{service}` is registered", hint=hint)


def _shares(item: Declared, route: VirtualService) -> Iterator[Problem]:
    """Say what weights mean that were meant as percents and are none: as in Istio, they are shares of their sum."""
    for index, rule in enumerate(route.spec.http):
        given = weights(rule.route)
        total = sum(given)
        if len(given) > 1 and total != _PERCENTS and _MEANT[0] <= total <= _MEANT[1]:
            shares = ", ".join(f"{_PERCENTS * weight / total:.3g}%" for weight in given)
            message = f"the weights add up to {total}, not {_PERCENTS}: the shares are {shares}"
            yield item.problem(("spec", "http", index, "route"), message, hint="correct them, if percents are meant")


def _reach(item: Declared, route: VirtualService) -> Iterator[Problem]:
    for index, rule in enumerate(route.spec.http[:-1]):
        if rule.match is None:
            message = "is never reached: an earlier rule matches every request"
            yield item.problem(("spec", "http", index + 1), message, hint="move the rule without `match` to the end")
            return
    if route.spec.http[-1].match is not None:
        message = "requests that match none of these rules get 404"
        yield item.problem(("spec", "http"), message, hint="add a last rule without `match`, if that is not meant")
