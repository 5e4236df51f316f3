"""The drill as people write it: what must hold, what is broken when, what must come of it, when to stop at once.

    apiVersion: fibrin.dev/v1
    kind: Drill
    metadata: {name: bad-version, labels: {class: version, set: short}}
    spec:
      description: A canary fails a fifth of its requests.
      steadyState:
      - {users: true, good: 98%}
      faults:
      - inject:
          errors: {service: catalog, version: v2, share: 20%}
      lasts: 10s
      expect:
        outcome: healed
        detectedWithin: 3s
        cause: {kind: [version], service: catalog, subject: v2}
        playbook: bad-version
        mitigatedWithin: 5s
        lostAtMost: 60

The models are strict, as those of playbooks. What a schema cannot say is the matter of `simulations.drills.loading`.
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, model_validator

from models.incident import CauseKind
from playbooks.base import Model
from playbooks.schema import Freeze
from playbooks.units import Duration, Share, percent, span
from simulations.drills.injections import Injection
from simulations.drills.places import Positive

SHORT: Final = "short"
"""The value of the label `set` of what `make drill` runs."""

_BASE: Final = datetime(2000, 1, 1, tzinfo=UTC)


class Outcome(StrEnum):
    """What must come of a drill."""

    HEALED = "healed"  # the agent acts, proves that it helped, and users are well again
    ESCALATED = "escalated"  # the agent calls a person or asks one for approval in vain, and touches nobody innocent
    ABSORBED = "absorbed"  # users are well again by themselves (or the agent was faster), and no person is called
    ANSWERED = "answered"  # healed or escalated: which of the two hangs on how much could be seen


class Objective(Model):
    """Something that must hold, as users or a service's callers see it, over the last seconds."""

    users: bool = False
    """Of the users: a request is good when answered below HTTP 500 within 250 ms."""
    service: str = ""
    """Of this service, as its callers see it: a request is good when it did not fail."""
    good: Positive = 0.98
    """At least this share of the requests is good."""
    p99: Annotated[Duration, Field(ge=0)] = 0.0
    """And the 99th percentile is at most this (services only); `0s`: not asked for."""
    over: Annotated[Duration, Field(ge=1, le=60)] = 3.0
    """Over the last so many seconds."""

    @model_validator(mode="after")
    def _of_somebody(self) -> Self:
        if self.users == bool(self.service):
            raise ValueError("give `users: true` or a `service`")
        if self.users and self.p99:
            raise ValueError("users have a time limit in `good` already: `p99` is for services")
        return self

    @property
    def subject(self) -> str:
        """Return whom it is about."""
        return self.service or "users"

    def __str__(self) -> str:
        """Render for people."""
        slow = f", p99 at most {span(self.p99)}" if self.p99 else ""
        return f"{self.subject}: at least {percent(self.good)} good{slow} over {span(self.over)}"


class Entry(Model):
    """One fault with its time."""

    inject: Injection
    """What happens."""
    at: Annotated[Duration, Field(ge=0)] = 0.0
    """When it begins, from the start of the drill."""
    lasts: Annotated[Duration, Field(ge=0)] = 0.0
    """How long; none: until the drill ends."""
    ramp: Annotated[Duration, Field(ge=0)] = 0.0
    """Over how long it grows to its full size (faults with a share, a factor or a rate)."""
    setting: bool = False
    """It is no fault but the scene: in place before the steady state is looked at."""


class Cause(Model):
    """The cause the agent must name."""

    kind: Annotated[tuple[CauseKind, ...], Field(min_length=1)]
    """One of these kinds."""
    service: str = ""
    """In this service; none: any."""
    subject: tuple[str, ...] = ()
    """This version, instance or zone (one of them); none: any."""


class Expect(Model):
    """What must come of it. What is not given is not asked for, except that nobody innocent may ever be touched."""

    outcome: Outcome
    """`healed`, `escalated`, `absorbed`, or `answered` (healed or escalated)."""
    detected_within: Annotated[Duration, Field(ge=0)] = 0.0
    """From the start of the drill to the agent's first alarm; `0s`: not asked for."""
    cause: Cause | None = None
    """What the agent must blame."""
    playbook: str = ""
    """The playbook it must take."""
    mitigated_within: Annotated[Duration, Field(ge=0)] = 0.0
    """From the start of the drill until users are well again for good; `0s`: not asked for."""
    lost_at_most: Annotated[int, Field(ge=0)] | None = None
    """Requests of users that may fail or be late while it lasts."""
    lost_share_at_most: Share | None = None
    """The same as a share of their requests."""
    hands_off: bool = False
    """The agent must not act at all, not even on who is at fault."""
    hands_off_until: Annotated[Duration, Field(ge=0)] = 0.0
    """The agent must not act before this, from the start of the drill."""
    may_touch: tuple[str, ...] = ()
    """Services besides those that are struck on which the agent may act."""
    well_again_within: Annotated[Duration, Field(gt=0)] = 30.0
    """How long after the faults were taken back the steady state may take to hold again."""


class Alarm(Model):
    """A blocking alarm: an objective that must never be missed for so long, or the drill is undone at once."""

    users: bool = False
    """Of the users."""
    service: str = ""
    """Of this service."""
    good: Positive
    """At least this share of the requests is good."""
    lasts: Annotated[Duration, Field(ge=0.5, le=60)] = 3.0
    """For how long it must be missed."""

    @model_validator(mode="after")
    def _of_somebody(self) -> Self:
        if self.users == bool(self.service):
            raise ValueError("give `users: true` or a `service`")
        return self

    @property
    def objective(self) -> Objective:
        """Return what must not be missed."""
        return Objective(users=self.users, service=self.service, good=self.good, over="1s")  # type: ignore[arg-type] # as written

    def __str__(self) -> str:
        """Render for people."""
        return f"{self.service or 'users'} below {percent(self.good)} good for {span(self.lasts)}"


class Schedule(Model):
    """When it runs by itself (`fibrin drill schedule`)."""

    cron: str
    """Five cron fields."""
    zone: str = "UTC"
    """IANA name of the time zone."""
    blocked: tuple[Freeze, ...] = ()
    """Times in which it does not run."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            CronSim(self.cron, _BASE)
        except CronSimError as error:
            raise ValueError(
                f"`{self.cron}` is not a cron schedule ({error}); `0 10 * * 2` is Tuesdays at ten"
            ) from error
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"`{self.zone}` is not a time zone; write one like `Europe/Berlin` or `UTC`") from error
        return self


class Blast(Model):
    """How far a drill may go on a mesh that people use."""

    max_traffic_share: Share = 0.25
    """Most of a service's requests that faults may strike."""
    max_capacity_share: Share = 0.34
    """Most of a service's instances that faults may strike."""
    max_services: Annotated[int, Field(ge=1)] = 1
    """Most services."""


class Mesh(Model):
    """The mesh it runs on, where the runner starts one."""

    rate: Annotated[float, Field(gt=0, le=500, strict=False)] = 70.0
    """Users' requests per second."""
    control: dict[str, float] = Field(default_factory=dict)
    """Settings of the control plane that differ (docs/settings.md)."""
    agent: dict[str, float] = Field(default_factory=dict)
    """Settings of the agent that differ."""
    warm_up: Annotated[Duration, Field(ge=1, le=600)] = 9.0
    """How long it serves users before the first drill, so that the agent learns what is normal: a small fault needs long."""
    fresh: bool = False
    """It gets a mesh of its own; else several drills share one, one after the other."""


class Spec(Model):
    """The body of a drill."""

    description: str = ""
    """What breaks and why that matters."""
    mesh: Mesh = Mesh()
    """The mesh it runs on."""
    steady_state: Annotated[tuple[Objective, ...], Field(min_length=1)]
    """What must hold before, and again afterwards."""
    faults: Annotated[tuple[Entry, ...], Field(min_length=1)]
    """What breaks when."""
    lasts: Annotated[Duration, Field(ge=1, le=3600)]
    """How long the drill lasts, until everything is taken back."""
    stop_when_healed: bool = False
    """End it as soon as the agent has proven an act of the expected playbook and users were well for 2 s since."""
    person: Literal["approves", "sleeps"] = "sleeps"
    """Whether the person on call approves what the expected playbook asks for."""
    expect: Expect
    """What must come of it."""
    abort: tuple[Alarm, ...] = ()
    """Blocking alarms."""
    blast: Blast = Blast()
    """How far it may go on a mesh that people use."""
    schedule: Schedule | None = None
    """When it runs by itself."""


class Metadata(Model):
    """Name and labels, as Kubernetes writes them."""

    name: str
    """Name of the drill; playbooks name the one that certifies them by it."""
    namespace: str = ""
    """Namespace, where there are several."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels, for selecting; `class` is what it is about, `set: short` puts it into `make drill`."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Notes."""


class Drill(Model):
    """One drill."""

    api_version: Literal["fibrin.dev/v1"]
    """`fibrin.dev/v1`."""
    kind: Literal["Drill"]
    """`Drill`."""
    metadata: Metadata
    """Name and labels."""
    spec: Spec
    """What it says."""

    @property
    def name(self) -> str:
        """Return its name."""
        return self.metadata.name

    @property
    def topic(self) -> str:
        """Return what it is about, by its label `class`."""
        return self.metadata.labels.get("class", "")
