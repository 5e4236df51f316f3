from __future__ import annotations

import dataclasses
import json
import os
import random
import statistics
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from control.effective import effective
from control.xds.protos import HTTPFault, Locality, Message, RouteConfiguration
from control.xds.protos import Node as NodeMessage
from control.xds.resources import CDS, EDS, LDS, RDS, SHORT, SRDS, Resource, Snapshot, Table, difference
from control.xds.routes import FAULT_FILTER, hosts_of, route_configuration, scopes
from control.xds.snapshot import Compiler, build
from control.xds.world import AccessLogs, MeshOptions, Node, World, spiffe_id
from models.domain import Health, Instance
from models.overlay import (
    AdaptConcurrency,
    Change,
    DisableFault,
    DrainInstance,
    EjectInstance,
    HeaderIs,
    InjectFault,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    Overlay,
    Owner,
    PauseCanary,
    RouteCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
)
from models.policy import (
    Admission,
    Breaker,
    CallerRate,
    Fallback,
    Fault,
    Limits,
    OutlierDetection,
    RequestMatch,
    Retries,
    Route,
    ScopedFault,
    ServicePolicy,
    StringMatch,
)

GOLDEN = Path(__file__).parent / "golden"
SHOP = Node("shop-1", "shop", "v1", "east", "127.1.0.1", listen=(("catalog", 9001), ("nowhere", 9002)))
CATALOG = (
    Instance("catalog-1", "catalog", "v1", "east", "127.1.0.2", 15006),
    Instance("catalog-2", "catalog", "v2", "west", "127.1.0.3", 15006),
    Instance("catalog-3", "catalog", "v1", "west", "127.1.0.4", 15006, Health.LOST),
    Instance("catalog-4", "catalog", "v1", "west", "127.1.0.5", 15006, Health.DRAINING),
)
RICH = ServicePolicy(
    "catalog",
    hosts=("shelf.example.com",),
    routes=(
        Route(
            "tests",
            (RequestMatch(StringMatch("prefix", "/a"), StringMatch("exact", "GET"), {"X-A": StringMatch("present")}),),
            weights={"v2": 1},
            fault=Fault(abort_percent=12.5, abort_status=500, delay_percent=1, delay_s=0.1),
        ),
        Route(weights={"v1": 90, "v2": 10, "v3": 0}, timeout_s=2.0, retries=Retries(retry_on=("5xx", "429"))),
    ),
    limits=Limits(max_connections=10, max_pending=20, max_requests=30),
    outlier=OutlierDetection(),
    fallback=Fallback(200, '{"items": "100%"}'),
    breakers=(Breaker("", 25, "fail-fast"), Breaker("shop", 100, "fallback")),
    ejected=frozenset({"catalog-1"}),
)

GUARDED = (
    ServicePolicy("catalog", drained=frozenset({"catalog-1"}), ejected=frozenset({"catalog-1"}), zones={"west": 3}),
    ServicePolicy(
        "shop",
        admission=Admission(
            (CallerRate("", 100.0), CallerRate("catalog", 5.0, 2.0)), adaptive=True, shed_percent=25, shed_below="high"
        ),
    ),
)


def world(*policies: ServicePolicy, instances: tuple[Instance, ...] = CATALOG) -> World:
    """A world of some policies and the catalog's instances."""
    shop = Instance("shop-1", "shop", "v1", "east", "127.1.0.1", 15006)
    return World({policy.service: policy for policy in policies}, (shop, *instances))


def readable(snapshot: Snapshot) -> dict[str, dict[str, object]]:
    """Turn a snapshot into JSON-like data."""
    return {
        SHORT[kind]: {name: json_format.MessageToDict(table[name].message()) for name in sorted(table)}
        for kind, table in snapshot.tables.items()
    }


def versions(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    """Return (type, name) → version of all resources."""
    return {(kind, name): found.version for kind, table in snapshot.tables.items() for name, found in table.items()}


@pytest.mark.parametrize(("name", "policies"), [("plain", ()), ("rich", (RICH,)), ("guarded", GUARDED)])
def test_snapshot_is_the_golden_one(name: str, policies: tuple[ServicePolicy, ...], options: MeshOptions) -> None:
    """The whole configuration of a sidecar is what was reviewed (FIBRIN_GOLDEN=write writes it anew)."""
    found = json.dumps(readable(build(world(*policies), SHOP, options)), indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("FIBRIN_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text()


def test_facts_of_envoy_are_honoured(options: MeshOptions) -> None:
    """No panic, no merge window, a retry budget, TLS 1.3 both ways, and the expected service's identity."""
    snapshot = build(world(RICH), SHOP, options)
    cluster = readable(snapshot)["cds"]["catalog|v2"]
    assert isinstance(cluster, dict)
    assert cluster["commonLbConfig"] == {"healthyPanicThreshold": {}, "updateMergeWindow": "0s"}
    assert cluster["outlierDetection"]["maxEjectionPercent"] == 10
    general = readable(snapshot)["cds"]["catalog"]
    assert isinstance(general, dict)
    assert general["outlierDetection"]["maxEjectionPercent"] == 34
    thresholds = general["circuitBreakers"]["thresholds"][0]
    assert thresholds["retryBudget"] == {"budgetPercent": {"value": 20.0}, "minRetryConcurrency": 3}
    tls = json.dumps(general["transportSocket"])
    assert '"tlsMinimumProtocolVersion": "TLSv1_3", "tlsMaximumProtocolVersion": "TLSv1_3"' in tls
    assert '"exact": "spiffe://fibrin.local/ns/default/sa/catalog"' in tls


def test_every_reference_is_defined(options: MeshOptions) -> None:
    """Every cluster has its endpoints, every route its cluster, every scope its routes."""
    snapshot = build(world(RICH), SHOP, options)
    eds = [n for n, r in snapshot[CDS].items() if r.message().type_url and b"|app" not in n.encode()]
    assert set(eds) == set(snapshot[EDS])
    tables = json.dumps(readable(snapshot)["rds"])
    for version in ("v1", "v2"):
        assert f'"catalog|{version}"' in tables
        assert f"catalog|{version}" in snapshot[CDS]
    assert "catalog|v3" not in tables
    for name in snapshot[SRDS]:
        scope = readable(snapshot)["srds"][name]
        assert isinstance(scope, dict)
        assert scope["routeConfigurationName"] in snapshot[RDS]


def test_version_clusters_only_where_versions_matter(options: MeshOptions) -> None:
    """One version alone needs no cluster of its own; two, or a weight, do."""
    one = tuple(i for i in CATALOG if i.version == "v1")
    assert set(build(world(instances=one), SHOP, options)[EDS]) == {"catalog", "shop"}
    assert set(build(world(), SHOP, options)[EDS]) == {"catalog", "catalog|v1", "catalog|v2", "shop"}
    weighted = ServicePolicy("catalog", routes=(Route(weights={"v9": 1}),))
    assert "catalog|v9" in build(world(weighted, instances=one), SHOP, options)[EDS]


def test_breaker_of_a_caller_is_seen_by_it_alone(options: MeshOptions) -> None:
    """The caller that a breaker names gets its own table, everybody else the shared one."""
    compiler = Compiler(options)
    there = world(RICH)
    shop, other = compiler.build(there, SHOP), compiler.build(there, Node("cart-1", "cart"))
    assert shop[RDS]["catalog"].version != other[RDS]["catalog"].version
    assert "x-fibrin-breaker" in str(shop[RDS]["catalog"].message())
    assert shop[RDS]["shop"] is other[RDS]["shop"]


def test_unchanged_parts_are_the_very_same(options: MeshOptions) -> None:
    """A change to one service keeps all other resources and untouched layers, object by object."""
    compiler = Compiler(options)
    before = compiler.build(world(), SHOP)
    after = compiler.build(world(ServicePolicy("catalog", routes=(Route(timeout_s=1),))), SHOP)
    assert before[CDS].shared is after[CDS].shared
    assert before[EDS].shared is after[EDS].shared
    assert before[LDS].own is after[LDS].own
    assert before[RDS]["shop"] is after[RDS]["shop"]
    assert difference(before[RDS].shared, after[RDS].shared).changed == ("catalog",)


def test_sidecars_share_what_is_the_same(options: MeshOptions) -> None:
    """Tables that hold nothing of one sidecar are one object for all, and stay it while their content does."""
    compiler = Compiler(options)
    cart_too = ServicePolicy("cart")
    there = world(cart_too)
    shop, cart = compiler.build(there, SHOP), compiler.build(there, Node("cart-1", "cart"))
    assert all(shop[kind] is cart[kind] for kind in (EDS, SRDS, RDS))
    changed = world(cart_too, ServicePolicy("catalog", breakers=(Breaker("shop", 100, "fail-fast"),)))
    after, other = compiler.build(changed, SHOP), compiler.build(changed, Node("cart-1", "cart"))
    assert all(shop[kind] is after[kind] for kind in (CDS, EDS, LDS, SRDS))
    assert after[RDS] is not other[RDS]
    assert other[RDS] is cart[RDS]
    again = world(cart_too, ServicePolicy("catalog", breakers=(Breaker("shop", 100, "fail-fast"),)))
    assert compiler.build(again, SHOP)[RDS] is after[RDS]
    stranger = Node("new-1", "new")
    assert compiler.build(again, stranger)[RDS] is compiler.build(again, stranger)[RDS]
    assert "inbound|new" in compiler.build(again, stranger)[RDS], "who is not registered yet can be reached"


def test_remembering_changes_nothing(options: MeshOptions) -> None:
    """A compiler that saw other worlds before gives what a fresh one gives."""
    compiler = Compiler(options)
    compiler.build(world(), SHOP)
    compiler.build(world(RICH, instances=CATALOG[:1]), SHOP)
    assert versions(compiler.build(world(RICH), SHOP)) == versions(build(world(RICH), SHOP, options))


@given(st.randoms(use_true_random=False))
def test_order_of_input_does_not_matter(rng: random.Random) -> None:
    """Instances, weights, hosts' owners and policies in any order give the same versions."""
    options = MeshOptions()
    policies = [RICH, ServicePolicy("shop", hosts=("shelf.example.com",)), ServicePolicy("cart")]
    instances = list(CATALOG)
    weights = list({"v1": 90, "v2": 10}.items())
    rng.shuffle(policies)
    rng.shuffle(instances)
    rng.shuffle(weights)
    tests, default = RICH.routes
    rich = dataclasses.replace(RICH, routes=(tests, dataclasses.replace(default, weights=dict(weights))))
    shuffled = [rich if policy is RICH else policy for policy in policies]
    first = build(world(*shuffled, instances=tuple(instances)), SHOP, options)
    assert versions(first) == versions(build(world(RICH, *policies), SHOP, options))


@given(st.dictionaries(st.sampled_from(["v1", "v2", "v3", "v4"]), st.integers(0, 1000)))
def test_weights_are_kept_exactly(weights: dict[str, int]) -> None:
    """Positive weights reach Envoy unchanged; when none is positive the service is one pool."""
    table = route_configuration(ServicePolicy("catalog", routes=(Route(weights=weights),)))
    action = table.virtual_hosts[0].routes[0].route
    positive = {f"catalog|{version}": weight for version, weight in weights.items() if weight > 0}
    if len(positive) > 1:
        assert {c.name: c.weight.value for c in action.weighted_clusters.clusters} == positive
    else:
        assert action.cluster == next(iter(positive), "catalog")


@given(st.floats(0, 100), st.integers(0, 100))
def test_shares_fit_envoy(percent: float, breaker: int) -> None:
    """Any percentage becomes at most a million millionths, and a breaker of 0 % is none."""
    policy = ServicePolicy(
        "catalog", routes=(Route(fault=Fault(abort_percent=percent)),), breakers=(Breaker("", breaker, "fail-fast"),)
    )
    routes = route_configuration(policy).virtual_hosts[0].routes
    assert len(routes) == (2 if breaker else 1)
    if breaker:
        share = routes[0].match.runtime_fraction.default_value
        assert (share.numerator, routes[0].name) == (breaker * 10_000, "catalog/*#breaker")


def test_own_names_win_over_declared_ones() -> None:
    """No declared host takes a service's own name; of two that declare one, the first by name has it."""
    greedy = ServicePolicy("a", hosts=("b", "x.io", "*.y.io", "Z.io:8080"))
    found = scopes([ServicePolicy("c", hosts=("x.io",)), ServicePolicy("b"), greedy])
    assert (found["b"], found["x.io"], found["z.io"]) == ("b", "a", "a")
    assert not [host for host in found if "*" in host]
    assert hosts_of(ServicePolicy("catalog.shop")) == (
        "catalog.shop",
        "catalog.shop.svc",
        "catalog.shop.svc.cluster.local",
    )
    assert spiffe_id("catalog.shop") == "spiffe://fibrin.local/ns/shop/sa/catalog"


def test_node_introduces_itself() -> None:
    """A node's message becomes a node; a port that is none, or a missing name, is told."""
    metadata = Struct()
    metadata.update({"address": "127.1.0.1", "version": "v1", "app_port": 9000, "listen": {"catalog": 9001}})
    message = NodeMessage(id="shop-1", cluster="shop", locality=Locality(zone="east"), metadata=metadata)
    found = Node.from_message(message)
    assert (found.address, found.app_address, found.app_port) == ("127.1.0.1", "127.1.0.1", 9000)
    assert found.listen == (("catalog", 9001),)
    metadata.update({"inbound_port": 70000})
    with pytest.raises(ValueError, match="inbound_port: 70000 is not a port"):
        Node.from_message(NodeMessage(id="shop-1", cluster="shop", metadata=metadata))
    with pytest.raises(ValueError, match="without id or cluster"):
        Node.from_message(NodeMessage(id="shop-1"))


def test_large_fallback_is_allowed() -> None:
    """A declared answer beyond Envoy's usual limit raises the limit of its table."""
    body = "x" * 10_000
    policy = ServicePolicy("catalog", fallback=Fallback(200, body), breakers=(Breaker("", 100, "fallback"),))
    assert route_configuration(policy).max_direct_response_body_size_bytes.value == 10_000


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123")),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123")),
)
def test_difference_leads_from_old_to_new(old: dict[str, str], new: dict[str, str]) -> None:
    """Applying a difference to the old layer gives the new one, and touches nothing that is the same."""
    before = {name: Resource(name, version, b"") for name, version in old.items()}
    after = {name: Resource(name, version, b"") for name, version in new.items()}
    step = difference(before, after)
    reached = {n: v for n, v in old.items() if n not in step.removed} | {n: new[n] for n in step.changed}
    assert reached == new
    assert all(old.get(name) != new[name] for name in step.changed)


def test_own_layer_lies_on_top() -> None:
    """A table shows its own resource where the shared layer has one of the same name."""
    shared = {"a": Resource("a", "1", b""), "b": Resource("b", "1", b"")}
    table = Table(shared, {"b": Resource("b", "2", b""), "c": Resource("c", "2", b"")})
    assert {name: found.version for name, found in table.items()} == {"a": "1", "b": "2", "c": "2"}
    assert len(table) == 3


OVERLAYS = st.sampled_from(
    [
        ShiftTraffic("catalog", {"v1": 1}),
        ShiftZones("catalog", {"east": 1}),
        EjectInstance("catalog", "catalog-2"),
        DrainInstance("catalog", "catalog-1"),
        OpenBreaker("catalog", "shop", 50),
        SetRetries("catalog", 0),
        SetTimeout("catalog", 0.5),
        LimitConnections("catalog", 3),
        InjectFault("catalog", 5.0),
        DisableFault("catalog"),
        SetOutlierDetection("catalog", 3),
        LimitRate("shop", 9.0, "catalog"),
        AdaptConcurrency("shop"),
        ShedLoad("shop", 20),
        PauseCanary("catalog"),
        RouteCanary("catalog", "v2", "v1", 20, mirror=True),
        RouteCanary("catalog", "v2", "v1", 100, conditions=(HeaderIs("x-beta", "present"),)),
        RunHook("catalog", "scale"),
    ]
)


@given(st.lists(OVERLAYS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_removing_every_overlay_restores_every_byte(changes: list[Change], rng: random.Random) -> None:
    """Laid one by one and removed in any order: each sidecar ends up with the very resources it had before."""
    declared = {"catalog": dataclasses.replace(RICH, ejected=frozenset()), "shop": ServicePolicy("shop")}
    shop, *catalog = world(instances=CATALOG).instances
    there = [Overlay(f"o{n}", c, Owner.AGENT, "x", "y", float(n), 1e12, 30.0) for n, c in enumerate(changes)]
    compiler, option = Compiler(MeshOptions(access_logs=AccessLogs())), World(declared, (shop, *catalog))
    before = versions(compiler.build(option, SHOP))
    laid: list[Overlay] = []
    for overlay in there:
        laid.append(overlay)
        policies = effective(declared, laid, option.instances, floor=0.1).policies
        compiler.build(World(policies, option.instances), SHOP)
    rng.shuffle(laid)
    while laid:
        laid.pop()
        policies = effective(declared, laid, option.instances, floor=0.1).policies
        after = versions(compiler.build(World(policies, option.instances), SHOP))
    assert after == before


def _faults(table: Message) -> list[tuple[float, float]]:
    """Return abort percentage and delay of each route of a table, in order."""
    found = []
    for route in table.virtual_hosts[0].routes:
        fault = HTTPFault()
        if FAULT_FILTER in route.typed_per_filter_config:
            route.typed_per_filter_config[FAULT_FILTER].Unpack(fault)
        abort, delay = fault.abort.percentage, fault.delay.fixed_delay
        found.append((abort.numerator / 1e4, delay.seconds + delay.nanos / 1e9))
    return found


def test_a_scoped_fault_reaches_its_scope_only(options: MeshOptions) -> None:
    """A caller's fault stands in that caller's routes, an instance's and a version's in the sidecars they name."""
    broken = Fault(abort_percent=25)
    faults = (
        ScopedFault(broken, caller="shop"),
        ScopedFault(Fault(abort_percent=50), instance="catalog-1"),
        ScopedFault(Fault(abort_percent=75), version="v2"),
    )
    there = world(ServicePolicy("catalog", faults=faults))
    compiler = Compiler(options)

    def tables(node: Node) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        tables = compiler.build(there, node).tables[RDS]
        found = []
        for name in ("catalog", f"inbound|{node.service}"):
            tables[name].message().Unpack(table := RouteConfiguration())
            found.append(_faults(table))
        return found[0], found[1]

    assert tables(SHOP) == ([(25, 0)], [(0, 0)])
    for name, percent in (("catalog-1", 50), ("catalog-2", 75), ("catalog-3", 0)):
        node = Node(name, "catalog", "", "", "127.1.0.9")
        assert tables(node) == ([(0, 0)], [(percent, 0)]), name
        assert versions(compiler.build(there, node)) == versions(build(there, node, options))


def test_a_slice_that_other_retries_leave_out_is_a_route_of_its_own() -> None:
    """5 % of each rule's requests keep the retries they had, under another name; everything else is the same."""
    routes = (
        Route("pay", (RequestMatch(StringMatch("prefix", "/pay")),), {"v1": 9, "v2": 1}),
        Route(retries=Retries(0)),
    )
    change = SetRetries("catalog", 3, keep_percent=5)
    overlay = Overlay("o", change, Owner.AGENT, "agent", "try", 0.0, 60.0, 60.0)
    policy = effective({"catalog": ServicePolicy("catalog", routes=routes)}, [overlay], ()).policies["catalog"]
    found = route_configuration(policy).virtual_hosts[0].routes
    assert [route.name for route in found] == [
        "catalog/pay#kept",
        "catalog/pay",
        "catalog/default#kept",
        "catalog/default",
    ]
    assert [route.route.retry_policy.num_retries.value for route in found] == [2, 3, 0, 3]
    for kept, whole in zip(found[::2], found[1::2], strict=True):
        assert kept.match.runtime_fraction.default_value.numerator == 50_000
        kept.match.ClearField("runtime_fraction")
        assert kept.match == whole.match
        assert kept.route.weighted_clusters == whole.route.weighted_clusters
    again = dataclasses.replace(change, keep_percent=0)
    policy = effective(
        {"catalog": ServicePolicy("catalog", routes=routes)}, [dataclasses.replace(overlay, change=again)], ()
    ).policies["catalog"]
    assert [route.name for route in route_configuration(policy).virtual_hosts[0].routes] == [
        "catalog/pay",
        "catalog/default",
    ]


def test_a_spread_delay_is_ten_delays_with_equal_shares() -> None:
    """A lognormal delay becomes ten routes: rising delays around the median, rising thresholds, the last for the rest."""
    fault = Fault(delay_percent=100, delay_s=0.1, delay_sigma=0.5)
    table = route_configuration(ServicePolicy("catalog", routes=(Route(fault=fault),)))
    delays = [delay for _, delay in _faults(table)]
    assert delays == sorted(delays)
    assert len(delays) == 10
    assert delays[4] < 0.1 < delays[5]
    assert statistics.median(delays) == pytest.approx(0.1, rel=0.01)
    routes = table.virtual_hosts[0].routes
    fractions = [r.match.runtime_fraction for r in routes if r.match.HasField("runtime_fraction")]
    assert [fraction.default_value.numerator for fraction in fractions] == [100_000 * k for k in range(1, 10)]
