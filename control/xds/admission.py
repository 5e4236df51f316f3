"""What a service's own sidecars let in: the routes of their inbound listener, by RDS.

Limits that protect an application stand beside it, where every caller passes and none can evade. The filters are in the
inbound chain but disabled; a route enables them, so that no listener changes and no connection is touched. A caller is
known by the certificate it showed (`x-forwarded-client-cert`, which the listener itself writes). Whoever is turned away
gets 429, which is no failure of the service.
"""

from __future__ import annotations

import re
from typing import Final

from control.xds.clusters import INBOUND_APP
from control.xds.protos import (
    AdaptiveConcurrency,
    DataSource,
    DirectResponseAction,
    FilterConfig,
    GradientController,
    HeaderMatcher,
    HTTPFault,
    HttpFilter,
    HttpStatus,
    LocalRateLimit,
    Message,
    Percent,
    RegexMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    RuntimeFractionalPercent,
    StringMatcher,
    TokenBucket,
    VirtualHost,
    packed,
    percentage,
    seconds,
    u32,
)
from control.xds.routes import DELAY_STEPS, FAULT_FILTER, UNREACHED_HEADER, header_option, struck
from control.xds.world import spiffe_id
from models.domain import Instance
from models.policy import Admission, CallerRate, Fault, ServicePolicy

RATE_FILTER: Final = "envoy.filters.http.local_ratelimit"
CONCURRENCY_FILTER: Final = "envoy.filters.http.adaptive_concurrency"
LIMIT_HEADER: Final = "x-fibrin-limit"
PRIORITY_HEADER: Final = "x-fibrin-priority"

TURNED_AWAY: Final = 429
_FILL_S: Final = 0.1
"""How often a bucket is filled at high rates (Envoy allows no less than 0.05 s)."""


def inbound_table(service: str) -> str:
    """Return the name of the inbound table of a service's sidecars; no service can have it."""
    return f"inbound|{service}"


def admission_filters() -> list[Message]:
    """Return the inbound filters that routes may enable; a disabled filter costs a request nothing."""
    limit = LocalRateLimit(stat_prefix="inbound_rate")
    return [
        HttpFilter(name=FAULT_FILTER, typed_config=packed(HTTPFault()), disabled=True),
        HttpFilter(name=RATE_FILTER, typed_config=packed(limit), disabled=True),
        HttpFilter(name=CONCURRENCY_FILTER, typed_config=packed(_adaptive()), disabled=True),
    ]


def _adaptive() -> Message:
    """A tenth of a second between limits; the round trip without queueing is measured anew every half minute."""
    controller = GradientController(
        sample_aggregate_percentile=Percent(value=90.0),
        concurrency_limit_params=GradientController.ConcurrencyLimitCalculationParams(
            concurrency_update_interval=seconds(0.1)
        ),
        min_rtt_calc_params=GradientController.MinimumRTTCalculationParams(
            interval=seconds(30), request_count=u32(25), jitter=Percent(value=10.0)
        ),
    )
    return AdaptiveConcurrency(
        gradient_controller_config=controller, concurrency_limit_exceeded_status=HttpStatus(code=TURNED_AWAY)
    )


def fault_at(policy: ServicePolicy, instance: Instance) -> Fault | None:
    """Return the fault that strikes what reaches this instance: the one that names it, else that of its version."""
    named = [f.fault for f in policy.faults if f.instance == instance.id]
    return next(iter(named or [f.fault for f in policy.faults if f.version and f.version == instance.version]), None)


def inbound_routes(policy: ServicePolicy, size: int, fault: Fault | None = None) -> Message:
    """Build the inbound table of one service's sidecars; `size` is how many instances share a limit of the service.

    `fault` strikes every request that is admitted.
    """
    admission, service = policy.admission, policy.service
    routes = [_shed(service, admission)] if admission.shed_percent else []
    named = [rate for rate in admission.rates if rate.caller]
    general = next((rate for rate in admission.rates if not rate.caller), None)
    routes += [_forward(service, admission, rate, size, caller=rate.caller) for rate in named]
    routes.append(_forward(service, admission, general, size))
    if fault is not None:
        routes = [copy for route in routes for copy in struck(route, fault, DELAY_STEPS)]
    host = VirtualHost(name=service, domains=["*"], routes=routes)
    removed = [UNREACHED_HEADER]  # only this sidecar may say that the application was not reached
    return RouteConfiguration(name=inbound_table(service), virtual_hosts=[host], response_headers_to_remove=removed)


def _forward(service: str, admission: Admission, rate: CallerRate | None, size: int, *, caller: str = "") -> Message:
    match = RouteMatch(prefix="/")
    if caller:
        match.headers.append(_from(caller))
    filters: dict[str, Message] = {}
    if rate is not None:
        filters[RATE_FILTER] = packed(_limit(rate, size))
    if admission.adaptive:
        filters[CONCURRENCY_FILTER] = packed(FilterConfig(config=packed(_adaptive()), is_optional=True))
    return Route(
        name=f"{service}/inbound" + (f"#{caller}" if caller else ""),
        match=match,
        route=RouteAction(cluster=INBOUND_APP, timeout=seconds(0)),
        typed_per_filter_config=filters,
    )


def _from(caller: str) -> Message:
    """Match requests whose sender proved to be `caller`."""
    identity = re.escape(spiffe_id(caller))
    regex = RegexMatcher(regex=f'(.*;)?URI="?{identity}"?([;,].*)?')
    return HeaderMatcher(name="x-forwarded-client-cert", string_match=StringMatcher(safe_regex=regex))


def _limit(rate: CallerRate, size: int) -> Message:
    """The bucket of one sidecar holds its share of the service's rate."""
    share = rate.requests_per_s / max(1, size)
    tokens = max(1, round(share * _FILL_S))
    always = RuntimeFractionalPercent(default_value=percentage(100))
    return LocalRateLimit(
        stat_prefix="inbound_rate",
        status=HttpStatus(code=TURNED_AWAY),
        token_bucket=TokenBucket(
            max_tokens=max(tokens, round(share * rate.burst_s)),
            tokens_per_fill=u32(tokens),
            fill_interval=seconds(tokens / share),
        ),
        filter_enabled=always,
        filter_enforced=always,
        response_headers_to_add=[header_option(LIMIT_HEADER, "rate")],
    )


def _shed(service: str, admission: Admission) -> Message:
    """Answer the share of the less important requests at once: those of low priority, or all that is not high."""
    low = HeaderMatcher(name=PRIORITY_HEADER, string_match=StringMatcher(exact="low"))
    not_high = HeaderMatcher(
        name=PRIORITY_HEADER,
        string_match=StringMatcher(exact="high"),
        invert_match=True,
        treat_missing_header_as_empty=True,
    )
    share = RuntimeFractionalPercent(default_value=percentage(admission.shed_percent))
    match = RouteMatch(prefix="/", runtime_fraction=share)
    match.headers.append(low if admission.shed_below == "normal" else not_high)
    body = f"{service} has more load than it can carry: requests of this priority are turned away\n"
    return Route(
        name=f"{service}/inbound#shed",
        match=match,
        direct_response=DirectResponseAction(status=TURNED_AWAY, body=DataSource(inline_string=body)),
        response_headers_to_add=[header_option(LIMIT_HEADER, "shed")],
    )
