"""`overlay`: changes laid over the declared configuration, by hand, with a lease that ends by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import click

from agent.story import deed
from fibrin.cli.context import Target, pass_target
from fibrin.cli.durations import Duration
from fibrin.cli.resources import find_kind, get, run
from models.errors import InvalidInput
from models.overlay import (
    AdaptConcurrency,
    Change,
    DisableFault,
    DrainInstance,
    EjectInstance,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    PauseCanary,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
)
from playbooks.units import span


@click.group()
def overlay() -> None:
    """Lay, renew, list and remove overlays. What people declared is never touched."""


def _lay(target: Target, change: Change, reason: str, lease: float, *, dry_run: bool) -> None:
    async def go() -> None:
        async with target.control() as client:
            if dry_run:
                await client.create_overlay(change, reason=reason, lease_s=lease, dry_run=True)
                click.echo(f"would {deed(change)} for {span(lease)} (dry run)")
                return
            laid = await client.create_overlay(change, reason=reason, lease_s=lease)
            status = await client.overlay(laid.id)
        click.echo(f"overlay/{laid.id} created, {status.propagation.acked}/{status.propagation.sidecars} sidecars")

    run(go())


def _common(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--dry-run", is_flag=True, help="Let the control plane judge it, lay nothing."),
        click.option("--lease", type=Duration(1), default="10m", show_default=True, help="How long; bare: seconds."),
        click.option("--reason", required=True, help="Why; stands in the change log."),
    ):
        command = option(command)
    return command


@overlay.command("shift")
@click.argument("service")
@click.argument("weights", nargs=-1, required=True, metavar="VERSION=WEIGHT...")
@_common
@pass_target
def shift(target: Target, service: str, weights: tuple[str, ...], reason: str, lease: float, *, dry_run: bool) -> None:
    """Set the traffic shares of a service's versions: `shift catalog v1=100 v2=0`."""
    _lay(target, ShiftTraffic(service, _parse_weights(weights)), reason, lease, dry_run=dry_run)


def _parse_weights(weights: tuple[str, ...], what: str = "VERSION") -> Mapping[str, int]:
    parsed: dict[str, int] = {}
    for part in weights:
        version, equals, weight = part.partition("=")
        if not (version and equals and weight.isascii() and weight.isdigit()):
            raise InvalidInput(f"{part!r} is not {what}=WEIGHT", hint="for example v1=100 v2=0")
        parsed[version] = int(weight)
    if not any(parsed.values()):
        raise InvalidInput("the weights add up to 0: nobody would answer", hint=f"give one {what} a weight above 0")
    return parsed


@overlay.command("eject")
@click.argument("service")
@click.argument("instance")
@_common
@pass_target
def eject(target: Target, service: str, instance: str, reason: str, lease: float, *, dry_run: bool) -> None:
    """Take one instance out of load balancing; its live requests finish."""
    _lay(target, EjectInstance(service, instance), reason, lease, dry_run=dry_run)


@overlay.command("break")
@click.argument("service")
@click.option("--caller", default="", help="Only for this caller [every caller].")
@click.option("--percent", type=click.IntRange(1, 100), default=100, show_default=True)
@click.option("--fallback", is_flag=True, help="Serve the declared fallback instead of 503.")
@_common
@pass_target
def open_breaker(
    target: Target, service: str, caller: str, percent: int, reason: str, lease: float, *, fallback: bool, dry_run: bool
) -> None:
    """Answer requests to SERVICE in the callers' sidecars instead of sending them."""
    change = OpenBreaker(service, caller, percent, "fallback" if fallback else "fail-fast")
    _lay(target, change, reason, lease, dry_run=dry_run)


@overlay.command("timeout")
@click.argument("service")
@click.argument("seconds", type=Duration(0.001), metavar="DURATION")
@_common
@pass_target
def timeout(target: Target, service: str, seconds: float, reason: str, lease: float, *, dry_run: bool) -> None:
    """Set the request timeout towards SERVICE: `timeout catalog 500ms`; a bare number is seconds."""
    _lay(target, SetTimeout(service, seconds), reason, lease, dry_run=dry_run)


@overlay.command("retries")
@click.argument("service")
@click.argument("attempts", type=click.IntRange(min=0))
@click.option("--budget", type=click.FloatRange(0, 1), default=0.2, show_default=True, help="Share of load.")
@_common
@pass_target
def retries(
    target: Target, service: str, attempts: int, budget: float, reason: str, lease: float, *, dry_run: bool
) -> None:
    """Set the retries towards SERVICE (0 turns them off)."""
    _lay(target, SetRetries(service, attempts, budget), reason, lease, dry_run=dry_run)


@overlay.command("limit")
@click.argument("service")
@click.option("--requests", type=click.IntRange(min=1), default=None, help="Concurrent requests.")
@click.option("--pending", type=click.IntRange(min=1), default=None, help="Queued requests.")
@click.option("--connections", type=click.IntRange(min=1), default=None, help="Connections.")
@_common
@pass_target
def limit(
    target: Target,
    service: str,
    requests: int | None,
    pending: int | None,
    connections: int | None,
    reason: str,
    lease: float,
    *,
    dry_run: bool,
) -> None:
    """Set connection-pool limits towards SERVICE."""
    if not (requests or pending or connections):
        raise InvalidInput("limit: nothing to limit", hint="give --requests, --pending or --connections")
    change = LimitConnections(service, requests or 0, pending or 0, connections or 0)
    _lay(target, change, reason, lease, dry_run=dry_run)


@overlay.command("zones")
@click.argument("service")
@click.argument("weights", nargs=-1, required=True, metavar="ZONE=WEIGHT...")
@_common
@pass_target
def zones(target: Target, service: str, weights: tuple[str, ...], reason: str, lease: float, *, dry_run: bool) -> None:
    """Set the traffic shares of a service's zones: `zones catalog east=0 west=100`."""
    _lay(target, ShiftZones(service, _parse_weights(weights, "ZONE")), reason, lease, dry_run=dry_run)


@overlay.command("drain")
@click.argument("service")
@click.argument("instance")
@_common
@pass_target
def drain(target: Target, service: str, instance: str, reason: str, lease: float, *, dry_run: bool) -> None:
    """Take one instance out and close its connections as their requests end."""
    _lay(target, DrainInstance(service, instance), reason, lease, dry_run=dry_run)


@overlay.command("rate")
@click.argument("service")
@click.argument("per_second", type=click.FloatRange(min=0, min_open=True))
@click.option("--caller", default="", help="Only for this caller [all callers together].")
@click.option("--burst", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Seconds.")
@_common
@pass_target
def rate(
    target: Target,
    service: str,
    per_second: float,
    caller: str,
    burst: float,
    reason: str,
    lease: float,
    *,
    dry_run: bool,
) -> None:
    """Admit PER_SECOND requests to SERVICE, over all its instances; 429 beyond."""
    _lay(target, LimitRate(service, per_second, caller, burst), reason, lease, dry_run=dry_run)


@overlay.command("shed")
@click.argument("service")
@click.argument("percent", type=click.IntRange(1, 100))
@click.option("--below", type=click.Choice(["normal", "high"]), default="normal", show_default=True)
@_common
@pass_target
def shed(
    target: Target,
    service: str,
    percent: int,
    below: Literal["normal", "high"],
    reason: str,
    lease: float,
    *,
    dry_run: bool,
) -> None:
    """Turn away PERCENT of the requests whose `x-fibrin-priority` lies below a priority; 429."""
    _lay(target, ShedLoad(service, percent, below), reason, lease, dry_run=dry_run)


@overlay.command("adapt")
@click.argument("service")
@_common
@pass_target
def adapt(target: Target, service: str, reason: str, lease: float, *, dry_run: bool) -> None:
    """Let SERVICE's sidecars find how many requests at once it can carry; 429 beyond."""
    _lay(target, AdaptConcurrency(service), reason, lease, dry_run=dry_run)


@overlay.command("no-fault")
@click.argument("service")
@_common
@pass_target
def no_fault(target: Target, service: str, reason: str, lease: float, *, dry_run: bool) -> None:
    """Let the faults rest that SERVICE's declaration injects."""
    _lay(target, DisableFault(service), reason, lease, dry_run=dry_run)


@overlay.command("pause-canary")
@click.argument("service")
@_common
@pass_target
def pause_canary(target: Target, service: str, reason: str, lease: float, *, dry_run: bool) -> None:
    """Keep SERVICE's versions at the shares they have: its canary takes no step."""
    _lay(target, PauseCanary(service), reason, lease, dry_run=dry_run)


@overlay.command("renew")
@click.argument("ident", metavar="ID")
@click.option("--lease", type=Duration(1), default="10m", show_default=True, help="From now.")
@pass_target
def renew(target: Target, ident: str, lease: float) -> None:
    """Make an overlay last longer."""

    async def go() -> None:
        async with target.control() as client:
            laid = await client.renew_overlay(ident, lease_s=lease)
        click.echo(f"overlay/{laid.id} renewed, ends in {span(lease)}")

    run(go())


@overlay.command("delete")
@click.argument("idents", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Why; stands in the change log.")
@pass_target
def delete(target: Target, idents: tuple[str, ...], reason: str) -> None:
    """Remove overlays: what people declared holds again."""

    async def go() -> None:
        async with target.control() as client:
            for ident in idents:
                await client.delete_overlay(ident, reason=reason)
                click.echo(f"overlay/{ident} deleted")

    run(go())


@overlay.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json", "yaml", "name"]), default="table")
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """List overlays; the same as `fibrin get overlay`."""
    ctx.invoke(get, kind=find_kind("overlay").name, name=None, output=output, selector=(), watch=False)


COMMANDS = (overlay,)
