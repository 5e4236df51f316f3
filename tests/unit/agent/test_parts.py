"""The pure parts: life cycle, gates, correlation, history, settings, timeline, fence, memory actuator."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.actuators.memory import MemoryActuator
from agent.codec import INCIDENT
from agent.correlate import explains, unexplained_share, upstream
from agent.gates import Interlock, Situation, check
from agent.history import History
from agent.incidents import Incident, moved, timed
from agent.leadership import Leadership
from agent.settings import AgentSettings, stricter
from agent.store import Store
from agent.timeline import Timeline
from control.wire import Fence
from models.domain import Edge
from models.errors import Broken, Conflict, FibrinError, InvalidInput, Unavailable
from models.incident import TERMINAL, TRANSITIONS, Cause, CauseKind, Signal, Stage
from models.signals import Series, Side
from playbooks.schema import Mode

from . import actuator_contract
from .conftest import TOPOLOGY, Clock, anomaly, client, outcomes

CAUSE = Cause(CauseKind.VERSION, "catalog", "v2", Signal.ERRORS, 0.9, edge=Edge("front", "catalog"))
OPEN = Situation(
    cause=CAUSE,
    witnesses=frozenset({"front-1"}),
    topology=TOPOLOGY,
    topology_known=True,
    control_up=True,
    fence=1,
    blind=frozenset(),
    reporters=8,
    storm_share=0.0,
    storm_limit=0.6,
    warm=True,
    audit_broken="",
    person="",
)


def test_only_allowed_transitions_happen() -> None:
    """Every pair of stages is either in the table or refused."""
    for before in Stage:
        for after in Stage:
            incident = Incident("inc-1", 1.0, 0.5, stage=before)
            if after in TRANSITIONS[before]:
                assert moved(incident, after, 2.0, "on").stage is after
            else:
                with pytest.raises(Conflict, match="cannot become"):
                    moved(incident, after, 2.0, "on")


def test_every_open_stage_leads_to_an_end() -> None:
    """No incident can get stuck by construction."""
    for stage in Stage:
        reach, todo = {stage}, [stage]
        while todo:
            todo += [s for s in TRANSITIONS[todo.pop()] if s not in reach and not reach.add(s)]  # type: ignore[func-returns-value]
        assert reach & TERMINAL


def test_the_first_time_counts() -> None:
    """A time once recorded is not overwritten."""
    incident = timed(timed(Incident("inc-1", 1.0, 0.5), "acted", 3.0), "acted", 9.0)
    assert incident.times == {"acted": 3.0}


def test_all_gates_open_means_act() -> None:
    """The situation the refusals below start from is one in which the agent acts."""
    assert check(OPEN) is None


@pytest.mark.parametrize(
    ("situation", "interlock", "final"),
    [
        (replace(OPEN, person="ada laid x"), Interlock.PERSON, True),
        (replace(OPEN, audit_broken="disk full"), Interlock.AUDIT, True),
        (replace(OPEN, warm=False), Interlock.WARM_UP, False),
        (replace(OPEN, control_up=False), Interlock.CONTROL, False),
        (replace(OPEN, topology_known=False), Interlock.CONTROL, False),
        (replace(OPEN, storm_share=0.6), Interlock.STORM, True),
        (replace(OPEN, cause=replace(CAUSE, kind=CauseKind.GLOBAL)), Interlock.STORM, True),
        (replace(OPEN, cause=replace(CAUSE, service="nowhere")), Interlock.UNKNOWN, True),
        (replace(OPEN, blind=frozenset({"front-1"})), Interlock.BLIND, False),
        (replace(OPEN, blind=frozenset("abcde")), Interlock.BLIND, False),
        (replace(OPEN, fence=None), Interlock.FENCE, False),
    ],
)
def test_each_interlock_alone_stops_the_action(situation: Situation, interlock: Interlock, *, final: bool) -> None:
    """One closed gate is enough, and it names itself."""
    block = check(situation)
    assert block is not None
    assert (block.interlock, block.final) == (interlock, final)


def test_the_suspects_own_silence_is_no_blindness() -> None:
    """A dead instance sends nothing; its callers' word is enough."""
    assert check(replace(OPEN, blind=frozenset({"catalog-v2-1"}))) is None


def test_trouble_travels_upstream_only() -> None:
    """A broken payment explains checkout and front; a broken front explains nothing below it."""
    payment = Cause(CauseKind.DEPENDENCY, "payment", "", Signal.ERRORS, 0.9)
    assert upstream(TOPOLOGY, "payment") == {"checkout", "front"}
    assert explains(payment, anomaly(client("front", "checkout"), 0.5, 10.0), TOPOLOGY)
    assert not explains(payment, anomaly(client("front", "catalog"), 0.5, 10.0), TOPOLOGY)
    assert not explains(replace(payment, service="front"), anomaly(client("checkout", "payment"), 0.5, 10.0), TOPOLOGY)


def test_another_version_is_another_cause_until_load_moves() -> None:
    """Strictly v1's trouble is not v2's; while traffic moves over it is taken for an echo."""
    other = anomaly(Series(Side.ATTEMPT, "", "catalog", "v1", "", ""), 0.5, 10.0)
    assert not explains(CAUSE, other, TOPOLOGY)
    assert explains(CAUSE, other, TOPOLOGY, strict=False)


def test_only_what_the_cause_does_not_explain_makes_a_storm() -> None:
    """Callers suffering along are no storm; strangers are."""
    payment = Cause(CauseKind.DEPENDENCY, "payment", "", Signal.ERRORS, 0.9)
    along = [anomaly(client("checkout", "payment"), 1.0, 1.0), anomaly(client("front", "checkout"), 1.0, 1.0)]
    assert unexplained_share(payment, along, TOPOLOGY, 5) == 0.0
    strangers = [*along, anomaly(client("front", "catalog"), 1.0, 1.0), anomaly(client("front", "cart"), 1.0, 1.0)]
    assert unexplained_share(payment, strangers, TOPOLOGY, 5) == pytest.approx(0.4)


def test_a_clock_that_leaps_ahead_takes_only_what_was_before_it_away() -> None:
    """Ten minutes in one step: series and bins of before are forgotten together, and what comes then is counted."""
    history, old, new = History(), client("front", "catalog"), client("front", "cart")
    for k in range(60):
        history.add(1000.0 + k / 4, {old: outcomes(1)})
    for k in range(40):
        history.add(1615.0 + k / 4, {new: outcomes(2)})
    found = history.since(0.0)
    assert {series: seen.requests for series, seen in found.items()} == {new: 80}


def test_history_answers_for_recent_and_older_windows() -> None:
    """Sums are right across the border between fine and coarse bins, and end at the horizon."""
    history, series = History(), client("front", "catalog")
    for tick in range(200):
        history.add(1000.0 + tick * 0.5, {series: outcomes(1)})
    now = 1000.0 + 199 * 0.5
    assert history.since(now - 2.0)[series].requests == 5
    assert history.since(now - 20.0)[series].requests in range(38, 43)
    assert history.since(0.0)[series].requests in range(118, 125)
    assert history.total(now - 2.0, lambda s: s == series, now).requests == 4
    assert history.last_seen(series) == now
    assert history.reporters(now - 1.0, "catalog") == {"front-1"}


def test_history_never_changes_what_it_was_given() -> None:
    """The detectors' outcomes are not added up in place."""
    history, series, given = History(), client("front", "catalog"), outcomes(1)
    for tick in range(40):
        history.add(1000.0 + tick, {series: given})
    assert history.since(0.0)[series].requests == 40
    assert given.requests == 1


def test_settings_that_cannot_work_are_all_named() -> None:
    """Every wrong setting is listed at once."""
    wrong = AgentSettings(state_dir=Path("/x" * 80), tick_s=0, confident=1.5, port=70_000)
    with pytest.raises(InvalidInput) as caught:
        wrong.check()
    assert {p.field for p in caught.value.problems} == {
        "agent.tick_s",
        "agent.confident",
        "agent.port",
        "agent.otlp_socket",
    }


def test_the_stricter_mode_holds() -> None:
    """A setting can only hold a playbook back, never push it."""
    assert stricter(Mode.AUTO, Mode.SHADOW) is Mode.SHADOW
    assert stricter(Mode.APPROVE, Mode.AUTO) is Mode.APPROVE


async def test_the_timeline_wakes_who_waits() -> None:
    """A waiter gets the event as it happens, and nothing on time-out."""
    timeline = Timeline()
    assert await timeline.wait(0, 0.01) == ()
    waiter = asyncio.create_task(timeline.wait(0, 5.0))
    await asyncio.sleep(0)
    timeline.add(1.0, "detected", "something", "inc-1")
    (event,) = await waiter
    assert (event.sequence, event.incident) == (1, "inc-1")


async def test_the_store_gives_back_what_it_got(tmp_path: Path) -> None:
    """Incidents and events survive closing and opening."""
    store = Store(tmp_path / "agent.db")
    await store.open()
    timeline = Timeline()
    series = client("front", "catalog")
    incident = Incident("inc-1", 1.0, 0.5, anomalies=(anomaly(series, 0.2, 1.0),), causes=(CAUSE,))
    await store.put(incident, (timeline.add(1.0, "detected", "x", "inc-1", {"n": 1}),))
    await store.close()
    again = Store(tmp_path / "agent.db")
    await again.open()
    assert await again.living() == (incident,)
    assert await again.get("inc-1") == incident
    assert await again.last_sequence() == 1
    assert (await again.events(0, 10))[0].data == {"n": 1}
    await again.close()


async def test_a_file_that_is_no_database_is_broken_not_a_crash(tmp_path: Path) -> None:
    """The error names the file and what next."""
    (tmp_path / "agent.db").write_text("this is not a database, " * 100)
    with pytest.raises(Broken, match=r"agent\.db"):
        await Store(tmp_path / "agent.db").open()


def test_an_incident_survives_its_json() -> None:
    """Stored and sent form are the same value."""
    incident = moved(Incident("inc-1", 1.0, 0.5, causes=(CAUSE,)), Stage.CORRELATED, 2.0, "x", n=1, ratio=0.5)
    assert INCIDENT.validate_json(INCIDENT.dump_json(incident)) == incident


async def test_the_memory_actuator_keeps_the_contract() -> None:
    """The fake behaves as the control plane does."""
    actuator = MemoryActuator(Clock())
    actuator.fence = 1
    await actuator_contract.holds(actuator)


class Source:
    """A control plane's fence, played."""

    def __init__(self) -> None:
        self.answer: int | FibrinError = 5

    async def acquire_fence(self, holder: str, ttl_s: float) -> Fence:
        del ttl_s
        if isinstance(self.answer, FibrinError):
            raise self.answer
        return Fence(self.answer, holder, 0.0)


def _token(leadership: Leadership) -> int | None:
    """Read the token anew: it changes with time and with what the source answers."""
    return leadership.token


async def test_the_fence_is_given_up_before_it_can_have_expired() -> None:
    """Local time runs out earlier than the lease."""
    source, now = Source(), [100.0]
    leadership = Leadership(source, "me", 5.0, lambda: now[0])
    assert _token(leadership) is None
    assert await leadership.renew()
    assert _token(leadership) == 5
    now[0] += 4.1
    assert _token(leadership) is None


async def test_another_holder_ends_leadership_at_once() -> None:
    """A conflict is believed immediately, an outage only when the lease has run out."""
    source, now = Source(), [100.0]
    leadership = Leadership(source, "me", 5.0, lambda: now[0])
    await leadership.renew()
    source.answer = Unavailable("away")
    assert await leadership.renew()
    assert _token(leadership) == 5
    source.answer = Conflict("held by other")
    assert not await leadership.renew()
    assert _token(leadership) is None
    assert leadership.why_not == "held by other"
