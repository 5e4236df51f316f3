"""The runner's order, and above all: whatever ends a drill, everything is taken back."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import Unavailable
from playbooks import library
from playbooks.certificates import standing
from simulations.drills.certify import earned
from simulations.drills.loading import load
from simulations.drills.runner import Runner
from simulations.drills.seen import Phase
from simulations.drills.verdict import Verdict

from .conftest import TEXT, JumpingClock, MemoryMesh, drill

KILL = """  - at: 2s
    inject:
      kill: {service: cart, instance: cart-v1-1}"""


def _runner(mesh: MemoryMesh) -> Runner:
    return Runner(mesh, lambda _, __: None, mesh.clock)


async def test_a_drill_that_heals_passes_and_certifies_its_playbook(mesh: MemoryMesh) -> None:
    """Broken, healed, taken back, well again: every promise is held, and the playbook has earned its certificate."""
    verdict = Verdict(await _runner(mesh).play(drill()))
    assert verdict.passed, verdict.checks
    assert mesh.history == ["+errors", "-errors", "clear"]
    assert verdict.detected_s == pytest.approx(1.0, abs=0.3)
    certificate = earned(verdict, library(), 2e9)
    assert certificate is not None
    book = next(each for each in library() if each.name == "bad-version")
    assert standing(book, (certificate,), 2e9).certified


async def test_without_a_steady_state_nothing_is_broken(mesh: MemoryMesh) -> None:
    """Users who are not well before are not made worse."""
    mesh.missed_before = 0.1
    seen = await _runner(mesh).play(drill())
    assert seen.phase is Phase.UNSTEADY
    assert "users" in seen.why
    assert mesh.history == []
    assert not Verdict(seen).passed
    assert earned(Verdict(seen), library(), 2e9) is None


async def test_with_a_blind_agent_nothing_is_broken(mesh: MemoryMesh) -> None:
    """Users are well, and yet a drill waits for an agent that sees: else it would prove nothing about it."""
    mesh.blind = ("cart-v1-1",)
    seen = await _runner(mesh).play(drill())
    assert (seen.phase, seen.why) == (Phase.UNSTEADY, "the agent cannot trust the telemetry of cart-v1-1")
    assert mesh.history == []


async def test_a_blocking_alarm_ends_it_within_five_seconds(mesh: MemoryMesh) -> None:
    """Two seconds of nearly nobody served is enough; the fault is gone within five of its beginning."""
    mesh.missed, mesh.heals_after_s = 0.9, None
    seen = await _runner(mesh).play(drill())
    assert seen.phase is Phase.ABORTED
    assert "blocking alarm" in seen.why
    assert seen.ended - seen.onset < 5.0
    assert mesh.in_force == []


async def test_the_stop_file_ends_it_at_once(mesh: MemoryMesh) -> None:
    """A person's stop is obeyed within a second, and said."""
    mesh.stop_at = mesh.clock.now() + 3.0
    seen = await _runner(mesh).play(drill())
    assert (seen.phase, seen.why) == (Phase.ABORTED, "the stop file exists")
    assert seen.ended - mesh.stop_at < 1.0
    assert mesh.in_force == []


@pytest.mark.parametrize("cancels", [1, 3])
async def test_cancelling_takes_everything_back_first(mesh: MemoryMesh, cancels: int) -> None:
    """Ctrl-C, even pressed again and again, ends a drill only when nothing is in force any more."""
    task = asyncio.create_task(_runner(mesh).play(drill(KILL)))
    while len(mesh.in_force) < 2:
        await asyncio.sleep(0)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mesh.in_force == []
    assert mesh.history == ["+errors", "+kill", "-kill", "-errors"]


async def test_a_fault_that_resists_keeps_no_other_in_force(mesh: MemoryMesh) -> None:
    """What cannot be taken back is named and fails the drill; the rest is taken back all the same."""
    mesh.resists = frozenset({"kill"})
    seen = await _runner(mesh).play(drill(KILL))
    assert mesh.in_force == ["kill"]
    assert seen.undo_errors == ("cart-v1-1 is killed: kill cannot be taken back",)
    failed = [check.name for check in Verdict(seen).checks if not check.ok]
    assert failed == ["undone"]


async def test_a_fault_that_cannot_begin_ends_the_drill_and_takes_the_others_back(mesh: MemoryMesh) -> None:
    """Half a drill is none: the error is raised once nothing is in force."""
    mesh.refuses = frozenset({"kill"})
    with pytest.raises(Unavailable, match="kill cannot be begun"):
        await _runner(mesh).play(drill(KILL))
    assert mesh.history == ["+errors", "-errors"]


async def test_faults_come_and_go_at_their_times(clock: JumpingClock) -> None:
    """A fault with a time of its own ends then; a setting is there before anything else."""
    mesh = MemoryMesh(clock)
    more = """  - at: 2s
    lasts: 3s
    inject:
      kill: {service: cart, instance: cart-v1-1}
  - setting: true
    inject:
      capacity: {service: cart, workers: 4}"""
    seen = await _runner(mesh).play(drill(more))
    assert mesh.history == ["+capacity", "+errors", "+kill", "-kill", "-errors", "-capacity", "clear"]
    at = {(mark.kind, mark.text): mark.at - seen.onset for mark in seen.marks}
    assert at["fault", "cart-v1-1 is killed"] == pytest.approx(2.0, abs=0.4)
    assert at["undone", "cart-v1-1 is killed"] == pytest.approx(5.0, abs=0.8)


async def test_a_drill_may_end_once_it_has_healed(mesh: MemoryMesh) -> None:
    """With `stopWhenHealed` the faults are taken back two seconds after the proof, long before the time is over."""
    early = load({"d.yaml": TEXT.format(more="").replace("  lasts: 10s", "  lasts: 60s\n  stopWhenHealed: true")})[0]
    seen = await _runner(mesh).play(early)
    assert Verdict(seen).passed
    assert 4.0 <= seen.ended - seen.onset < 6.0
