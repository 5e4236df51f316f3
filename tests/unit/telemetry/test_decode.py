"""From an export to a report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.telemetry.decode import Decoder, Malformed
from models.domain import Instance
from models.signals import Outcomes, Saturation, Series, Side
from models.telemetry import KEPT, SPIFFE_PREFIX

V1 = Instance("catalog-v1-1", "catalog", "v1", "a", "10.0.0.1", 80)
V2 = Instance("catalog-v2-1", "catalog", "v2", "a", "10.0.0.2", 80)
HOSTS = {one.endpoint: one for one in (V1, V2)}
EDGE = Series(Side.CLIENT, "web", "catalog", "", "", "web-1")
ATTEMPT = Series(Side.ATTEMPT, "web", "catalog", "v1", "catalog-v1-1", "web-1")


def decode(payload: bytes, hosts: Mapping[str, Instance] = HOSTS) -> dict[Series, Outcomes]:
    """Return what a fresh decoder of `web-1` makes of an export."""
    return Decoder("web-1", hosts.get).decode(payload, 1000.5).outcomes


def test_an_idle_sidecar_reports_its_heartbeat_and_nothing_else(export: Any) -> None:
    """Without requests a report carries uptime, clock and who speaks."""
    report = Decoder("web-1", HOSTS.get).decode(export(uptime=42, sent_at=1000.0).active(3).bytes(), 1000.5)
    assert (report.reporter, report.service, report.uptime_s, report.live) == ("web-1", "web", 42.0, True)
    assert report.sent_at == pytest.approx(1000.0)
    assert report.received_at == 1000.5
    assert report.outcomes == {}
    assert report.saturation == (Saturation("web-1", 3.0),)


def test_requests_attempts_and_latencies_find_their_series(export: Any) -> None:
    """The edge has no instance, the attempt has it by the host's address, the pool's version comes from the instance."""
    found = decode(
        export()
        .latency(Side.CLIENT, {5: 3}, cluster="catalog", route="catalog/default", code="200", flags="-")
        .requests(Side.CLIENT, 1, cluster="catalog", route="catalog/default", code="500", flags="-")
        .latency(Side.ATTEMPT, {5: 2}, cluster="catalog", host=V1.endpoint, code="200", flags="-")
        .latency(Side.ATTEMPT, {6: 2}, cluster="catalog|v1", host=V1.endpoint, code="200", flags="-")
        .bytes()
    )
    assert set(found) == {EDGE, ATTEMPT}
    assert (found[EDGE].requests, found[EDGE].errors, found[EDGE].codes) == (4, 1, {200: 3, 500: 1})
    assert (found[EDGE].latency[5], found[EDGE].latency.sum()) == (3, 4)
    assert (found[ATTEMPT].requests, found[ATTEMPT].latency[5], found[ATTEMPT].latency[6]) == (4, 2, 2)


def test_an_answer_with_a_flag_is_timed_and_counted_once(export: Any) -> None:
    """It is in the histogram and in the counter; the counter counts."""
    facts = {"cluster": "catalog", "route": "catalog/default", "host": V1.endpoint, "code": "504", "flags": "UT"}
    found = decode(export().requests(Side.CLIENT, 3, **facts).bytes())
    assert (found[EDGE].requests, found[EDGE].errors, found[EDGE].codes) == (3, 3, {504: 3})
    assert (found[EDGE].flags, int(found[EDGE].latency.sum())) == ({"UT": 3}, 3)


def test_what_each_rule_of_a_route_table_answered_is_told_apart(export: Any) -> None:
    """Per service and rule: requests, failures, latency, as callers saw them; a breaker of the service answers for no rule."""
    asked: dict[str, Any] = {"cluster": "catalog", "host": V1.endpoint, "flags": "-", "grpc": ""}
    payload = (
        export()
        .requests(Side.CLIENT, 3, route="catalog/pay", code="200", **asked)
        .requests(Side.CLIENT, 1, route="catalog/pay", code="500", **asked)
        .requests(Side.CLIENT, 7, route="catalog/rest", code="200", **asked)
        .requests(Side.CLIENT, 2, route="catalog/*#breaker", code="503", **asked)
        .requests(Side.CLIENT, 4, route="catalog/rest#kept", code="200", **asked)
        .requests(Side.ATTEMPT, 4, code="200", **asked)
        .bytes()
    )
    report = Decoder("web-1", HOSTS.get).decode(payload, 1000.0)
    rules = report.rules
    assert {key: (found.requests, found.errors) for key, found in rules.items()} == {
        ("catalog", "pay"): (4, 1),
        ("catalog", "rest"): (11, 0),  # a hold-out slice belongs to its rule, and is a series of its own
    }
    kept = [found.requests for series, found in report.outcomes.items() if series.version == KEPT]
    assert kept == [4]
    assert rules["catalog", "pay"].latency.sum() == 4


def test_the_server_side_knows_its_caller_by_certificate(export: Any) -> None:
    """A peer of this mesh is named, anybody else is the empty caller."""
    found = decode(
        export()
        .requests(Side.SERVER, 2, peer=SPIFFE_PREFIX + "shop", code="200", flags="-", grpc="")
        .requests(Side.SERVER, 5, peer="", code="200", flags="-", grpc="")
        .bytes()
    )
    assert {(s.caller, s.callee, s.version, s.instance): o.requests for s, o in found.items()} == {
        ("shop", "web", "v1", "web-1"): 2,
        ("", "web", "v1", "web-1"): 5,
    }


@pytest.mark.parametrize(
    ("code", "flags", "grpc", "error"),
    [
        ("200", "-", "", False),
        ("404", "-", "", False),
        ("429", "RL", "", False),
        ("500", "-", "", True),
        ("503", "UH", "", True),
        ("504", "URX,UT", "", True),
        ("0", "UF", "", True),
        ("0", "DC", "", False),
        ("200", "DC", "", False),
        ("200", "UPE", "", True),
        ("200", "-", "14", True),
        ("200", "-", "5", False),
        ("200", "-", "0", False),
    ],
)
def test_what_counts_as_an_error(export: Any, code: str, flags: str, grpc: str, *, error: bool) -> None:
    """5xx, gRPC failures, broken or missing answers are errors; 4xx and callers that went away are not."""
    found = decode(
        export()
        .requests(Side.CLIENT, 2, cluster="catalog", host=V1.endpoint, code=code, flags=flags, grpc=grpc)
        .bytes()
    )
    assert found[EDGE].errors == (2 if error else 0)
    assert found[EDGE].flags == dict.fromkeys([f for f in flags.split(",") if f != "-"], 2)


def test_an_open_breaker_is_told_apart(export: Any) -> None:
    """Its answers carry BRK; those that fail the caller BRKF as well; the callee is known by the route."""
    found = decode(
        export()
        .requests(Side.CLIENT, 3, cluster="", route="catalog/default#breaker", host="", code="503", flags="-", grpc="")
        .requests(Side.CLIENT, 4, cluster="", route="catalog/default#breaker", host="", code="200", flags="-", grpc="")
        .bytes()
    )
    assert set(found) == {EDGE}
    assert (found[EDGE].requests, found[EDGE].errors, found[EDGE].flags) == (7, 3, {"BRK": 7, "BRKF": 3})


def test_unanswered_attempts_are_settled_by_what_the_caller_got(export: Any) -> None:
    """Of five attempts without code or flag two were abandoned by their caller; three timed out."""
    facts = {"cluster": "catalog|v1", "host": V1.endpoint, "code": "0", "grpc": ""}
    found = decode(
        export()
        .requests(Side.ATTEMPT, 5, flags="-", **facts)
        .requests(Side.CLIENT, 2, route="catalog/default", flags="DC", **facts)
        .requests(Side.CLIENT, 3, route="catalog/default", flags="UT", **{**facts, "code": "504"})
        .bytes()
    )
    assert (found[ATTEMPT].errors, found[ATTEMPT].flags) == (3, {"DC": 2, "UT": 3})
    assert (found[EDGE].errors, found[EDGE].flags) == (3, {"DC": 2, "UT": 3})


def test_requests_to_nobody_of_ours_are_counted_apart(export: Any) -> None:
    """An unknown host's 502 makes no series."""
    decoder = Decoder("web-1", HOSTS.get)
    payload = export().requests(Side.CLIENT, 6, cluster="", route="", host="", code="502", flags="-", grpc="").bytes()
    assert decoder.decode(payload, 1.0).outcomes == {}
    assert decoder.unattributed == 6


def test_an_address_is_resolved_again_until_known_and_after_forget(export: Any) -> None:
    """An instance that registers late gets its name, and one that took over an address does so after `forget`."""
    hosts: dict[str, Instance] = {}
    decoder = Decoder("web-1", hosts.get)
    payload = (
        export().requests(Side.ATTEMPT, 1, cluster="catalog", host=V1.endpoint, code="200", flags="-", grpc="").bytes()
    )

    def names() -> list[tuple[str, str]]:
        return [(s.instance, s.version) for s in decoder.decode(payload, 1.0).outcomes]

    assert names() == [("", "")]
    hosts[V1.endpoint] = V1
    assert names() == [("catalog-v1-1", "v1")]
    hosts[V1.endpoint] = V2
    assert names() == [("catalog-v1-1", "v1")]
    decoder.forget()
    assert names() == [("catalog-v2-1", "v2")]


@pytest.mark.parametrize(
    ("reason", "broken"),
    [
        ("heartbeat", lambda e: e(uptime=None).requests(Side.CLIENT, 1, cluster="catalog")),
        ("resource", lambda e: e(service="")),
        ("temporality", lambda e: e(temporality=2).requests(Side.CLIENT, 1, cluster="catalog", flags="UF")),
        ("temporality", lambda e: e(temporality=2).latency(Side.CLIENT, {1: 1})),
        ("value", lambda e: e().requests(Side.CLIENT, -4, cluster="catalog", code="0", flags="UF")),
        ("value", lambda e: e().latency(Side.CLIENT, {1: 2}, count=3, route="catalog/default")),
        ("value", lambda e: e().latency(Side.CLIENT, {1: -2, 2: 4}, route="catalog/default")),
        ("grid", lambda e: e().latency(Side.CLIENT, {1: 1}, bounds=b"\0" * 584)),
        ("grid", lambda e: e().latency(Side.CLIENT, {1: 1}, bounds=b"")),
        ("tags", lambda e: e().requests(Side.CLIENT, 1, cluster="catalog", code="many")),
        ("tags", lambda e: e().requests(Side.CLIENT, 1, cluster="catalog", code="20000")),
    ],
)
def test_a_wrong_export_is_refused_by_name(export: Any, reason: str, broken: Any) -> None:
    """What no sidecar of this mesh sends is refused, with one word for the counter and a sentence for people."""
    with pytest.raises(Malformed, match="web-1") as caught:
        decode(broken(export).bytes())
    assert caught.value.reason == reason
    assert caught.value.hint


@given(st.binary(max_size=200))
def test_random_bytes_are_malformed_and_nothing_worse(payload: bytes) -> None:
    """Whatever arrives, decoding ends in Malformed."""
    with pytest.raises(Malformed):
        decode(payload)


@given(st.data())
def test_a_truncated_or_bent_export_never_raises_anything_else(data: st.DataObject) -> None:
    """One flipped byte or a cut anywhere gives a report or Malformed."""
    from_wire = EXAMPLE[: data.draw(st.integers(0, len(EXAMPLE)))]
    if from_wire:
        at = data.draw(st.integers(0, len(from_wire) - 1))
        from_wire = from_wire[:at] + bytes([data.draw(st.integers(0, 255))]) + from_wire[at + 1 :]
    try:
        outcomes = decode(from_wire)
    except Malformed:
        return
    assert all(isinstance(series, Series) for series in outcomes)


EXAMPLE = b""


@pytest.fixture(autouse=True)
def _example(export: Any) -> None:
    global EXAMPLE  # noqa: PLW0603  # hypothesis and function-scoped fixtures do not mix
    EXAMPLE = (
        export()
        .requests(
            Side.CLIENT, 3, cluster="catalog", route="catalog/default", host=V1.endpoint, code="200", flags="-", grpc=""
        )
        .requests(Side.ATTEMPT, 2, cluster="catalog", host=V1.endpoint, code="0", flags="UF")
        .bytes()
    )


def test_reports_do_not_share_memory(export: Any) -> None:
    """Adding to one report's histogram leaves the next one's alone."""
    decoder = Decoder("web-1", HOSTS.get)
    payload = export().latency(Side.CLIENT, {5: 2}, route="catalog/default").bytes()
    first, second = (decoder.decode(payload, 1.0).outcomes[EDGE] for _ in range(2))
    first.latency += 7
    assert np.array_equal(np.flatnonzero(second.latency), [5])
