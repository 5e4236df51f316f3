"""The playbook as SREs write it: when it applies, how far it may go, what it does, how it knows that it helped.

    apiVersion: fibrin.dev/v1
    kind: Playbook
    metadata: {name: bad-version}
    spec:
      description: A new version fails while its siblings do not.
      when:
        cause: [version]
        signal: [errors]
        services: {all: true}
        minProbability: 60%
      mode: auto
      guard: {maxTrafficShare: 50%, cooldown: 30s}
      steps:
      - name: send its traffic to the healthy versions
        action:
          shiftTraffic: {away: "{cause.version}"}
        verify: {deadline: 10s}
        undo: automatic
      escalate: {severity: critical}

The models are strict: an unknown field, a number without its unit, two actions in one step are errors. What a schema
cannot say (an unreachable step, an action without undo) is the matter of `playbooks.lint`.
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, model_validator

from models.incident import CauseKind, Signal
from playbooks.base import Mode, Model, Severity
from playbooks.deeds import Action, ActionSpec, HookName, Page, dose
from playbooks.units import Duration, Share, percent, span

__all__ = ["Action", "ActionSpec", "Mode", "Page", "Playbook", "Severity", "Step", "When"]


class Services(Model):
    """Which services a playbook may touch: by names, by labels of their instances, or all of them, said on purpose.

    Choosing nothing is an error, never "all".
    """

    names: tuple[str, ...] = ()
    """These services."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Services whose instances all carry these labels."""
    everything: bool = Field(default=False, alias="all")
    """Every service of the mesh."""
    exclude: tuple[str, ...] = Field(default=(), alias="except")
    """But not these."""

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        if wrong := _unclear(self):
            raise ValueError(wrong)
        return self


def _unclear(services: Services) -> str:
    """Return why a selector does not say whom it means, "" when it does."""
    chosen = [bool(services.names), bool(services.labels), services.everything]
    if sum(chosen) == 0:
        return "the selector is empty: give `names:` or `labels:`, or say `all: true` on purpose"
    if sum(chosen) > 1:
        return "give one of `names`, `labels` and `all`, not several"
    if "" in services.names or "*" in services.names:
        return "a name must be a service's name; for every service say `all: true`"
    return ""


class When(Model):
    """What an incident must look like. All given conditions must hold."""

    cause: Annotated[tuple[CauseKind, ...], Field(min_length=1)]
    """Kinds of cause it is for."""
    signal: Annotated[tuple[Signal, ...], Field(min_length=1)] = tuple(Signal)
    """Golden signals by which the cause shows."""
    services: Services
    """Services it may touch."""
    min_probability: Annotated[Share, Field(gt=0)] = 0.7
    """How sure the agent must be of the cause."""
    min_severity: Severity = Severity.INFO
    """How much it must hurt; `critical` is a fifth of the requests failing, or five times slower."""
    expression: str = ""
    """A condition over the evidence, in CEL; see below for what it may speak of. Empty holds always."""


class Rate(Model):
    """How many actions in how long."""

    count: Annotated[int, Field(ge=1)] = 5
    """Most actions in any window."""
    per: Annotated[Duration, Field(gt=0)] = 600.0
    """Length of the window."""


class Freeze(Model):
    """A time in which nothing is done: `from` and `to` once, or `cron` and `lasts` again and again."""

    reason: str = ""
    """Why, for whoever is paged instead."""
    start: Annotated[str, Field(alias="from")] = ""
    """Date, or date and time (ISO 8601), in `zone`."""
    end: Annotated[str, Field(alias="to")] = ""
    """Date, or date and time; the freeze ends before it."""
    cron: str = ""
    """When it begins, as five cron fields, in `zone`."""
    lasts: Duration = 0.0
    """How long it lasts from each beginning."""
    zone: str = "UTC"
    """IANA name of the time zone, like `Europe/Berlin`."""

    @model_validator(mode="after")
    def _tells_a_time(self) -> Self:
        once, often = bool(self.start and self.end), bool(self.cron and self.lasts)
        if once == often or bool(self.start) != bool(self.end) or bool(self.cron) != bool(self.lasts):
            raise ValueError("give `from` and `to`, or `cron` and `lasts`")
        try:
            zone = ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"`{self.zone}` is not a time zone; write one like `Europe/Berlin` or `UTC`") from error
        if once:
            if _moment(self.start, zone) >= _moment(self.end, zone):
                raise ValueError(f"the freeze would end ({self.end}) before it begins ({self.start})")
            return self
        try:
            CronSim(self.cron, datetime(2000, 1, 1, tzinfo=zone))
        except CronSimError as error:
            raise ValueError(
                f"`{self.cron}` is not a cron schedule ({error}); `0 22 * * 1-5` is ten on weekdays"
            ) from error
        return self

    def holds(self, at: float) -> bool:
        """Tell whether the freeze is in force at Unix time `at`."""
        zone = ZoneInfo(self.zone)
        if self.start:
            return _moment(self.start, zone).timestamp() <= at < _moment(self.end, zone).timestamp()
        try:  # backwards from the first whole minute after `at`: the last beginning up to now
            begun = next(CronSim(self.cron, datetime.fromtimestamp(at + 60, zone), reverse=True))
        except StopIteration:
            return False
        return begun.timestamp() <= at < begun.timestamp() + self.lasts

    @property
    def written(self) -> dict[str, str]:
        """Return it as a person writes it: what can be read again."""
        said = {"reason": self.reason, "from": self.start, "to": self.end, "cron": self.cron, "zone": self.zone}
        if self.lasts:
            said["lasts"] = f"{self.lasts:.3f}s"
        return {name: value for name, value in said.items() if value}

    def __str__(self) -> str:
        """Render for people: why and when."""
        when = f"{self.start} to {self.end}" if self.start else f"{span(self.lasts)} from `{self.cron}` on"
        return f"{self.reason + ', ' if self.reason else ''}{when} ({self.zone})"


def _moment(text: str, zone: ZoneInfo) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"`{text}` is not a date; write `2026-12-24` or `2026-12-24T18:00`") from error
    return found if found.tzinfo else found.replace(tzinfo=zone)


class Budget(Model):
    """What the error budget of the touched service must look like. A service without an objective has no budget to spend."""

    min_remaining: Share = 0.0
    """How much of the budget must be left."""
    max_burn: Annotated[float, Field(ge=0, strict=False)] = 0.0
    """Most times the sustainable rate at which it may burn; 0: any."""


class Guard(Model):
    """How far the playbook may go. The limits of the whole mesh hold beside them."""

    max_traffic_share: Share = 0.5
    """Most of the service's traffic that one step may treat differently."""
    max_capacity_share: Share = 0.5
    """Most of its healthy instances that one step may take away."""
    min_healthy_share: Share = 0.5
    """How much of them must stay in service, with all that is already away counted."""
    headroom: Share = 0.0
    """Share of its limit that each remaining instance must keep free after taking over the load; 0%: not asked for."""
    max_load_factor: Annotated[float, Field(ge=0, strict=False)] = 0.0
    """Most times its usual load that a remaining instance may get; 0: not asked for. A surge counts."""
    cooldown: Duration = 60.0
    """Pause between two actions on one service."""
    rate: Rate = Rate()
    """Most actions of this playbook in a window."""
    strikes: Annotated[int, Field(ge=1)] = 2
    """After so many failures on one service within an hour the playbook stops there."""
    concurrency: Annotated[int, Field(ge=1)] = 1
    """Most of its actions that are not verified yet, over all services."""
    freeze: tuple[Freeze, ...] = ()
    """Times in which it does nothing and a person is paged."""
    error_budget: Budget = Budget()
    """What the service's error budget must look like."""


class HoldOut(Model):
    """A slice that is left untreated for a short while, so that "it helped" is measured and not assumed.

    The act is in force first, for all; the slice is opened after it, and closes by the verdict, by time, or when the
    agent is gone.
    """

    share: Annotated[Share, Field(gt=0, le=0.2)] = 0.05
    """Share of what the act treats that is left out; at least 1% of the service's traffic where versions or zones are
    weighted."""
    span: Annotated[Duration, Field(gt=0, le=60, alias="for")] = 10.0
    """Longest time it stays open."""
    critical: bool = False
    """Whether users may be left out although the harm is critical."""


class Verify(Model):
    """How a step proves itself: the signal back inside its baseline before the deadline, or undo."""

    deadline: Annotated[Duration, Field(gt=0)]
    """How long it may take from the act on."""
    signal: Signal | None = None
    """The signal to look at; none: the one by which the cause shows."""
    services: tuple[str, ...] = ()
    """Whose requests to look at (placeholders allowed); none: the touched service's, behind a breaker its callers'."""
    hold_out: HoldOut | None = None
    """A slice left untreated for a while, to compare with; shifts, `ejectInstance` and `setRetries` can have one."""


class HookCall(Model):
    """A hook that takes an action back."""

    hook: HookName
    """The declared hook."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """What to tell it; values may use placeholders."""


class Step(Model):
    """One thing to try. Steps are alternatives: a step that did not help is undone before the next one."""

    name: Annotated[str, Field(min_length=1)]
    """A few words; reports tell steps apart by them."""
    action: Action
    """What to do: exactly one action."""
    hold_down: Duration = 0.0
    """How long to wait before acting, in case it passes by itself."""
    waves: tuple[Annotated[Share, Field(gt=0)], ...] = ()
    """Ascending doses of an action that can be split, like `[10%, 50%, 100%]`: each is verified, and taken back before
    the next one, so that the smallest comes first."""
    verify: Verify | None = None
    """How it proves itself."""
    undo: Literal["automatic", "nothing"] | HookCall | None = None
    """`automatic`: the overlay is removed, a scaling taken back. A hook's undo is another hook. `nothing`: it cannot be
    taken back, and a `holdDown` of at least 10 s stands before it."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if list(self.waves) != sorted(set(self.waves)):
            raise ValueError("`waves` must rise, like `[10%, 50%, 100%]`")
        return self

    @property
    def stages(self) -> tuple[tuple[str, ActionSpec], ...]:
        """Return what is really tried, in order: the action, or each of its waves, with a name of its own."""
        spec = self.action.spec
        doses = [(share, dose(spec, share)) for share in self.waves]
        named = tuple((f"{self.name} ({percent(share)})", part) for share, part in doses if part is not None)
        return named or ((self.name, spec),)


class Spec(Model):
    """The body of a playbook."""

    description: str = ""
    """What is broken and what this does about it, for whoever is paged."""
    when: When
    """What an incident must look like."""
    mode: Mode = Mode.SHADOW
    """`shadow` only says what it would do; `approve` asks a person first; `auto` acts."""
    priority: int = 0
    """Of several that match, the highest acts; among equals the one that selects more narrowly, then the one whose first step
    has helped more often for such a cause."""
    guard: Guard = Guard()
    """How far it may go."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    """What to try, in order."""
    escalate: Page = Page()
    """Whom to tell what when nothing helped."""


class Metadata(Model):
    """Name and labels, as Kubernetes writes them."""

    name: str
    """Name of the playbook."""
    namespace: str = ""
    """Namespace, where there are several."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels, for selecting."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Notes; `fibrin.dev/drill` names the drill that certifies it."""


DRILL: Final = "fibrin.dev/drill"
"""The annotation that names the drill which proves a playbook."""


class Playbook(Model):
    """One playbook."""

    api_version: Literal["fibrin.dev/v1"]
    """`fibrin.dev/v1`."""
    kind: Literal["Playbook"]
    """`Playbook`."""
    metadata: Metadata
    """Name and labels."""
    spec: Spec
    """What it says."""

    @property
    def name(self) -> str:
        """Return its name."""
        return self.metadata.name

    @property
    def drill(self) -> str:
        """Return the name of the drill that certifies it, "" when it names none."""
        return self.metadata.annotations.get(DRILL, "")

    @property
    def specificity(self) -> int:
        """Return how narrowly it selects (higher is narrower): decides among equal priorities."""
        when = self.spec.when
        services = 200 if when.services.names else 100 if when.services.labels else 0
        narrow = (len(CauseKind) - len(when.cause)) + (len(Signal) - len(when.signal))
        return services + narrow + when.min_severity.rank + 2 * bool(when.expression)
