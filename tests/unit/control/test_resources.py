"""Reading VirtualService and DestinationRule: what is wrong is told with file, line, column, field and what next."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.resources.compile import compile_policies
from control.resources.loading import Declared, Key, canonical, load, refuse, restore
from control.resources.validation import check, warnings
from control.resources.values import interval, seconds, share
from models.errors import InvalidInput, Problem
from models.policy import Fallback, Fault, Limits, OutlierDetection, ServicePolicy, StringMatch

HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: catalog}\n"


RULE = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x}\n"


def read(text: str) -> dict[Key, Declared]:
    """Read a sound set."""
    found, _ = load([("f.yaml", text)])
    declared = {item.key: item for item in found}
    refuse(check(declared))
    return declared


def problems(text: str) -> tuple[Problem, ...]:
    """Return what is wrong with a text."""
    with pytest.raises(InvalidInput) as caught:
        read(text)
    return caught.value.problems


def with_http(body: str) -> str:
    """Return a VirtualService with these rules."""
    return HEAD + "spec:\n  hosts: [catalog]\n  http:\n" + textwrap.indent(textwrap.dedent(body), "    ")


def test_sound_pair_compiles_to_one_policy(routes: str) -> None:
    """The two documents make one policy with weights by version, timeout and fallback."""
    policy = compile_policies(read(routes))["catalog"]
    assert policy.routes[0].weights == {"v1": 90, "v2": 10}
    assert policy.routes[0].timeout_s == 2.0
    assert policy.fallback == Fallback(200, "[]", "application/json")


def test_every_supported_field_reaches_the_policy() -> None:
    """Each field of the subset lands where the snapshot builder reads it."""
    text = textwrap.dedent("""\
        apiVersion: networking.istio.io/v1beta1
        kind: VirtualService
        metadata:
          name: catalog
          annotations: {fibrin.dev/retry-budget: "30%", fibrin.dev/retry-backoff: "10ms..1s"}
        spec:
          hosts: [catalog, catalog.example.org]
          http:
            - name: cheap
              match:
                - {uri: {prefix: /cheap}, method: {exact: GET}, headers: {X-Try: {}, x-old: {regex: "v[12]"}}}
              route: [{destination: {host: catalog, subset: canary}}]
              timeout: 250ms
              retries: {attempts: 3, perTryTimeout: 100ms, retryOn: "5xx,connect-failure"}
              fault:
                abort: {httpStatus: 418, percentage: {value: 1.5}}
                delay: {fixedDelay: 1s, percentage: {value: 20}}
            - route: [{destination: {host: catalog.default.svc.cluster.local}}]
        ---
        apiVersion: networking.istio.io/v1alpha3
        kind: DestinationRule
        metadata: {name: catalog}
        spec:
          host: catalog
          subsets: [{name: canary, labels: {version: v2}}]
          trafficPolicy:
            connectionPool:
              tcp: {maxConnections: 7, connectTimeout: 300ms}
              http: {http1MaxPendingRequests: 8, http2MaxRequests: 9}
            outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 40}
            loadBalancer: {simple: ROUND_ROBIN}
        """)
    policy = compile_policies(read(text))["catalog"]
    first, second = policy.routes
    assert policy.hosts == ("catalog.example.org",)
    assert (first.name, second.name) == ("cheap", "route-1")
    assert first.weights == {"v2": 100}
    assert second.weights == {}
    assert first.matches[0].headers == {"x-try": StringMatch("present"), "x-old": StringMatch("regex", "v[12]")}
    assert first.retries.attempts == 3
    assert first.retries.retry_on == ("5xx", "connect-failure")
    assert (first.retries.budget, first.retries.base_interval_s, first.retries.max_interval_s) == (0.3, 0.01, 1.0)
    assert first.fault == Fault(1.5, 418, 20.0, 1.0)
    assert policy.limits == Limits(7, 8, 9, 0.3)
    assert policy.outlier == OutlierDetection(3, 1.0, 5.0, 40)
    assert policy.load_balancer == "round-robin"


@pytest.mark.parametrize(
    ("body", "line", "field", "message", "hint"),
    [
        ("- rout: []\n", 7, "spec.http[0].rout", "unknown field", "did you mean `route`?"),
        ("- mirror: {host: x}\n  route: [{destination: {host: catalog}}]\n", 7, "spec.http[0].mirror", "supported", ""),
        ("- route: []\n", 7, "spec.http[0].route", "at least 1", ""),
        ("- route: [{destination: {host: catalog}, weight: 0}]\n", 7, "spec.http[0]", "add up to 0", ""),
        ("- route: [{destination: {host: catalog}}]\n  timeout: 5\n", 8, "spec.http[0].timeout", "duration", ""),
        ("- route: [{destination: {host: catalog}}]\n  match: []\n", 7, "spec.http[0]", "empty list", ""),
        ("- route: [{destination: {host: catalog}}]\n  match: [{}]\n", 8, "spec.http[0].match[0]", "empty match", ""),
        ("- route: [{destination: {host: catalog}, weight: many}]\n", 7, "weight", "integer", ""),
        ("- route: [{destination: {host: other}}]\n", 7, "destination.host", "not among its hosts", "spec.hosts"),
        ("- route: [{destination: {host: catalog, subset: v9}}]\n", 7, "subset", "declared in no", "DestinationRule"),
        ("- match: [{uri: {regex: '(?=x)'}}]\n  route: [{destination: {host: catalog}}]\n", 7, "uri", "RE2", ""),
        ("- route: [{destination: {host: catalog}}]\n  retries: {retryOn: sometimes}\n", 8, "retries", "sometimes", ""),
    ],
)
def test_mistakes_in_a_route_point_at_themselves(body: str, line: int, field: str, message: str, hint: str) -> None:
    """Each mistake is told with its line, its field, what is wrong and what to do."""
    found = problems(with_http(body))
    texts = [str(problem) for problem in found]
    hit = [p for p in found if field in p.field and message in f"{p.message}" and hint in p.hint]
    assert hit, texts
    assert hit[0].source == "f.yaml"
    assert hit[0].line == line
    assert hit[0].column > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "not YAML"),
        ("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: x}\n", "not supported yet"),
        ("apiVersion: networking.istio.io/v1\nkind: VirtualServise\nmetadata: {name: x}\n", "is unknown"),
        (HEAD.replace("v1", "v7") + "spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}", "apiVersion"),
        (HEAD + "spec: {hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}", "wildcard"),
        (HEAD + "spec: {hosts: [], http: []}", "at least 1"),
        (HEAD + "---\n" + HEAD, "required field is missing"),
        (
            RULE + "spec: {host: x, subsets: [{name: v1, labels: {}}]}",
            "required field is missing",
        ),
        (
            RULE + "spec: {host: x, trafficPolicy: {tls: {mode: DISABLE}}}",
            "not supported yet",
        ),
    ],
)
def test_documents_that_make_no_sense_are_refused(text: str, message: str) -> None:
    """Broken YAML, unknown kinds, wildcards and empty selectors are errors."""
    assert any(message in problem.message for problem in problems(text)), problems(text)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ('fibrin.dev/fallback: "{"', "JSON"),
        ("fibrin.dev/fallback: '{\"status\": 999}'", "status"),
        ('fibrin.dev/retry-budget: "200%"', "percentage"),
        ('fibrin.dev/retry-backoff: "2s..1s"', "not above"),
        ('fibrin.dev/fallbak: "x"', "unknown annotation"),
    ],
)
def test_annotations_are_checked(annotation: str, message: str) -> None:
    """What our annotations carry is read when applied, not when needed."""
    text = with_http("- route: [{destination: {host: catalog}}]\n").replace(
        "{name: catalog}", f"{{name: catalog, annotations: {{{annotation}}}}}"
    )
    assert any(message in str(problem) for problem in problems(text)), problems(text)


def test_two_virtual_services_cannot_claim_one_host() -> None:
    """The second claim of a host is an error that names the first."""
    one = with_http("- route: [{destination: {host: catalog}}]\n")
    found = problems(one + "---\n" + one.replace("{name: catalog}", "{name: other}"))
    assert "VirtualService/catalog already has the host catalog" in found[0].message


def test_fields_without_effect_and_unknown_services_are_warnings() -> None:
    """What does no harm is taken, and said."""
    text = with_http("- route: [{destination: {host: catalog, port: {number: 80}}}]\n  match: [{uri: {prefix: /}}]\n")
    found, told = load([("f.yaml", text)])
    more = warnings({item.key: item for item in found}, ["catalogue"])
    assert [p.message for p in told] == ["is read, but has no effect"]
    assert more[0].message == "no instance of `catalog` is registered"
    assert "did you mean `catalogue`?" in more[0].hint
    assert "get 404" in more[1].message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((95, 10), ["the weights add up to 105, not 100: the shares are 90.5%, 9.52%"]),
        ((60, 30), ["the weights add up to 90, not 100: the shares are 66.7%, 33.3%"]),
        ((90, 10), []),
        ((3, 1), []),
    ],
)
def test_percents_that_are_none_are_told_with_what_they_mean(
    routes: str, given: tuple[int, int], told: list[str]
) -> None:
    """Weights are shares of their sum, as Istio takes them; where percents look meant, what comes of them is said."""
    text = routes.replace("weight: 90", f"weight: {given[0]}").replace("weight: 10", f"weight: {given[1]}")
    declared = read(text)
    assert [p.message for p in warnings(declared, ["catalog"]) if "add up" in p.message] == told


def test_a_stored_manifest_reads_as_it_was(routes: str) -> None:
    """What the store gives back compiles to the same policies."""
    declared = read(routes)
    again = {item.key: restore(item.manifest) for item in declared.values()}
    assert compile_policies(again) == compile_policies(declared)


def test_names_of_hosts() -> None:
    """A service is named as in DESIGN whatever suffix the YAML uses."""
    assert canonical("catalog") == canonical("catalog.default.svc.cluster.local") == "catalog"
    assert canonical("catalog", "shop") == canonical("catalog.shop.svc") == "catalog.shop"


@given(st.integers(1, 10_000_000))
def test_durations_round_trip(milliseconds: int) -> None:
    """Any whole number of milliseconds up to the limit reads as itself."""
    assert seconds(f"{milliseconds}ms") == pytest.approx(milliseconds / 1000)


@given(st.text(max_size=12))
def test_durations_never_fail_otherwise_than_told(text: str) -> None:
    """Whatever stands there is a duration above or at zero, or a ValueError."""
    try:
        found = seconds(text)
    except ValueError:
        found = 0.0
    assert 0 <= found <= 86400


def test_shares_and_intervals() -> None:
    """Percentages become shares, ranges two durations."""
    assert share("20%") == 0.2
    assert interval("25ms..250ms") == (0.025, 0.25)
    with pytest.raises(ValueError, match="percentage"):
        share("20")


def test_a_rule_alone_is_a_policy() -> None:
    """A DestinationRule without routes gives a default policy with its limits."""
    text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x}\nspec: {host: x}\n"
    assert compile_policies(read(text)) == {"x": ServicePolicy("x")}
