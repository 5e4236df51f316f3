"""A sample of `make soak`: the agent's process killed for good in the middle of what it does."""

from __future__ import annotations

import pytest

from models.errors import InvalidInput
from playbooks import load
from simulations.soak import kills
from simulations.soak.kills import ACTIONS, Case, cases

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


async def test_a_killed_agent_is_followed_by_one_that_comes_to_the_same_end() -> None:
    """SIGKILL while a useless step is being undone: the next process undoes it once and takes the step that cures."""
    case = Case((kills.USELESS, "shift-traffic"), "shift-traffic")
    wanted, lines = await kills.run(case)
    assert (wanted.stages, wanted.overlays, wanted.audit) == ("resolved", ("shift-traffic",), "")
    at = next(number for number, line in enumerate(lines, 1) if line.startswith("undoing"))
    found, seen = await kills.run(case, at)
    assert len(seen) == at
    assert found == wanted


def test_every_kind_of_action_can_be_tried() -> None:
    """Each case is a playbook that loads, alone and after a useless step."""
    every = cases()
    assert len(every) == 2 * len(ACTIONS) - 1
    for case in every:
        (playbook,) = load({"soak.yaml": case.playbook()})
        assert [step.action.name for step in playbook.spec.steps] == [
            ACTIONS[kind].partition(":")[0] for kind in case.steps
        ]
    with pytest.raises(InvalidInput):
        load({"soak.yaml": every[0].playbook().replace("undo: automatic", "undo: never")})
