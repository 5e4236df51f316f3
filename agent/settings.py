"""What an operator may set about the agent; one flat frozen record, filled by `fibrin/settings.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.actuators.hooks import Hook, declared
from agent.channels import Channel
from agent.store import check_url
from models.errors import InvalidInput, Problem
from playbooks.guards import Limits
from playbooks.schema import Freeze, Mode

MAX_PORT: Final = 65_535
SOCKET_PATH_BYTES: Final = 107


def stricter(left: Mode, right: Mode) -> Mode:
    """Return the more timid of two modes (shadow, approve, auto in ascending boldness)."""
    order = tuple(Mode)
    return left if order.index(left) <= order.index(right) else right


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The agent's settings. All times in seconds, all shares 0–1.

    `state_dir` holds `agent.db`, `audit.log`, `agent.json` and, unless named otherwise, the telemetry socket.
    `token` is the bearer token for the control API; empty means: read `agent.token` in the state directory.
    """

    state_dir: Path
    control_url: str = ""  # empty: what control.json in the state directory says
    token: str = ""
    database: str = ""  # PostgreSQL that replicas share (postgresql://USER@HOST/NAME); empty: agent.db in state_dir
    host: str = "127.0.0.1"
    port: int = 15090  # 0 lets the system choose; the choice stands in agent.json
    otlp_socket: Path | None = None  # default: <state_dir>/otlp.sock
    playbooks: tuple[Path, ...] = ()  # files or directories besides the shipped library
    library: bool = True  # load the shipped playbooks
    require_certificates: bool = True  # a playbook acts alone only if its drill passed of late
    certificate_fresh_s: float = 2592000.0  # how long a drill that passed here counts (30 days)
    mode: Mode = Mode.AUTO  # ceiling over every playbook's own mode
    observe_only: bool = False  # see everything, never act, hold no fence
    stop_acting: bool = False  # hold the kill switch: no order can take it back
    stop_file: Path | None = None  # the kill switch's file; default: <state_dir>/stop-acting
    webhook: str = ""  # where pages go as JSON, besides log and timeline
    channels: tuple[Channel, ...] = ()  # more places for pages: name, url, format (plain, slack, pagerduty), key_file
    hooks: tuple[Hook, ...] = ()  # what playbooks may run outside the mesh: name, url, kind (webhook, job) ...

    tick_s: float = 0.1  # as often as telemetry comes
    confident: float = 0.8  # probability of the best cause that allows acting at once
    plausible: float = 0.3  # probability that suffices once `settle_s` has passed
    settle_s: float = 0.3  # how long an ambiguous incident may wait for more symptoms
    undecided_s: float = 5.0  # after this long without a plausible cause a person is called
    warm_up_s: float = 5.0  # after a start without remembered baselines: see, do not act
    storm_share: float = 0.6  # share of services with a fault of their own above which nothing is done
    mesh_capacity: float = 0.34  # most of the mesh's healthy instances that the agent may hold out of service at once
    freeze: tuple[
        Freeze, ...
    ] = ()  # times in which nothing is done and no canary goes on: as a playbook's guard.freeze
    mute_s: float = 5.0  # after an incident closed, echoes of its cause do not open another for this long
    gone_s: float = 2.0  # an untreated anomaly that stayed away this long is over
    lease_s: float = 30.0  # overlays die this long after the agent
    fence_ttl_s: float = 5.0  # another agent may take over this long after this one
    ack_timeout_s: float = 2.0  # how long sidecars may take to confirm a change before it counts as unconfirmed
    yield_s: float = 300.0  # how long the agent leaves a place alone after a person took it over in an open incident
    hold_s: float = 0.0  # how long a resolved incident's overlay is held; 0: until a person or the platform ends it
    audit_required: bool = True  # nothing is done that cannot be recorded; off: done, said, and recorded later
    audit_anchors: Path | None = None  # where signed anchors are collected; default: <state_dir>/audit.anchors
    audit_file_bytes: int = 16_777_216  # an audit file is moved aside from this size on
    audit_keep_s: float = 0.0  # full audit files older than this are removed, and the log says so; 0: never
    audit_redact: tuple[str, ...] = ()  # fields that leave only a keyed commitment in the log, e.g. who.name
    shutdown_s: float = 5.0  # an ordered stop takes at most this long

    @property
    def socket(self) -> Path:
        """Return where sidecars push telemetry."""
        return self.otlp_socket or self.state_dir / "otlp.sock"

    @property
    def limits(self) -> Limits:
        """Return what holds for the whole mesh, whatever a playbook allows."""
        return Limits(storm_share=self.storm_share, mesh_capacity=self.mesh_capacity, freeze=self.freeze)

    def check(self) -> None:
        """Raise InvalidInput naming every setting that cannot work."""
        declared(self.hooks)
        problems = [
            Problem(f"must be above 0, found {value}", field=f"agent.{name}")
            for name, value in (
                ("tick_s", self.tick_s),
                ("lease_s", self.lease_s),
                ("fence_ttl_s", self.fence_ttl_s),
                ("ack_timeout_s", self.ack_timeout_s),
                ("audit_file_bytes", self.audit_file_bytes),
                ("shutdown_s", self.shutdown_s),
            )
            if value <= 0
        ]
        problems += [
            Problem(f"must lie between 0 and 1, found {value}", field=f"agent.{name}")
            for name, value in (
                ("confident", self.confident),
                ("plausible", self.plausible),
                ("storm_share", self.storm_share),
                ("mesh_capacity", self.mesh_capacity),
            )
            if not 0 < value <= 1
        ]
        if self.database:
            check_url(self.database)
        if not 0 <= self.port <= MAX_PORT:
            problems.append(Problem(f"is no port: {self.port}", field="agent.port"))
        if len(str(self.socket).encode()) > SOCKET_PATH_BYTES:
            problems.append(
                Problem(
                    f"a Unix socket path may have {SOCKET_PATH_BYTES} bytes, {self.socket} has {len(str(self.socket).encode())}",
                    field="agent.otlp_socket",
                    hint="choose a shorter state directory",
                )
            )
        if problems:
            raise InvalidInput("the agent's settings cannot work", hint="correct them", problems=tuple(problems))
