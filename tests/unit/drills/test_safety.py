"""On a mesh that people use: refused without leave, beyond the blast radius, without an alarm; and when drills run by themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from models.domain import Instance
from models.errors import Refused
from simulations.drills.calendar import blocked, trigger, upcoming
from simulations.drills.loading import load
from simulations.drills.safety import ALLOW, check, objections
from simulations.drills.schema import Drill, Schedule

TEXT = """
apiVersion: fibrin.dev/v1
kind: Drill
metadata: {name: careful}
spec:
  description: Careful.
  steadyState:
  - {service: cart, good: 98%}
  faults:
  - inject:
      abort: {service: cart, instance: cart-1, share: 50%}
  lasts: 10s
  expect: {outcome: absorbed}
  abort:
  - {service: cart, good: 80%, lasts: 2s}
"""
MESH = tuple(Instance(f"cart-{k}", "cart", "v1", "a", "127.0.0.1", 1, labels={ALLOW: "allow"}) for k in (1, 2, 3))


def _drill(old: str = "", new: str = "") -> Drill:
    assert old in TEXT
    return load({"d.yaml": TEXT.replace(old, new, 1)})[0]


def test_a_small_allowed_drill_with_an_alarm_may_run() -> None:
    """Half of one of three instances' requests is within the default blast radius."""
    check(_drill(), MESH)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  abort:\n  - {service: cart, good: 80%, lasts: 2s}\n", "", "no blocking alarm"),
        (", instance: cart-1, share: 50%", "", "100% of the requests to cart would be struck"),
        ("instance: cart-1", "version: v1", "100% of the instances of cart would be struck"),
        (
            "abort: {service: cart, instance: cart-1, share: 50%}",
            "kill: {service: cart}",
            "a mesh that the runner started",
        ),
        ("- {service: cart, good: 98%}", "- {users: true}", "users cannot be asked"),
        ("- {service: cart, good: 80%", "- {users: true, good: 80%", "users cannot be asked"),
    ],
)
def test_what_is_not_safe_is_refused(old: str, new: str, said: str) -> None:
    """Each objection is named; one is enough."""
    found = objections(_drill(old, new), MESH)
    assert said in "\n".join(map(str, found))
    with pytest.raises(Refused):
        check(_drill(old, new), MESH)


def test_every_struck_instance_must_allow_it() -> None:
    """A label on the neighbours is no leave; an instance without it is named."""
    silent = (replace(MESH[0], labels={}), *MESH[1:])
    assert "cart-1 do not allow drills" in str(objections(_drill(), silent)[0])
    assert not objections(_drill(), (MESH[0], *(replace(each, labels={}) for each in MESH[1:])))


SCHEDULE = """
  schedule:
    cron: "30 2 * * 0"
    zone: Europe/Berlin
    blocked:
    - {from: "2026-04-05", to: "2026-04-06", zone: Europe/Berlin}
"""


def test_schedules_know_zones_daylight_saving_and_blocked_windows() -> None:
    """Half past two on a Sunday, in Berlin's time; the night without that hour and the blocked day are known."""
    drill = load({"d.yaml": TEXT.rstrip() + SCHEDULE})[0]
    now = datetime(2026, 3, 31, tzinfo=UTC).timestamp()
    (due,) = upcoming((drill,), now)
    assert due.at is not None
    assert due.at.isoformat() == "2026-04-05T02:30:00+02:00"
    assert "2026-04-05" in due.blocked
    assert drill.spec.schedule is not None
    assert blocked(drill.spec.schedule, datetime(2026, 4, 12, 0, 30, tzinfo=UTC).timestamp()) == ""
    assert upcoming((_drill(),), now) == ()


@pytest.mark.parametrize("weekday", ["0", "7", "sun"])
def test_the_scheduler_means_the_same_weekday(weekday: str) -> None:
    """Cron counts weekdays from Sunday, APScheduler from Monday: what is written is what is run."""
    schedule = Schedule(cron=f"0 10 * * {weekday.upper() if weekday.isalpha() else weekday}", zone="UTC")
    found: Any = trigger(schedule)
    fire = found.get_next_fire_time(None, datetime(2026, 4, 1, tzinfo=UTC))
    assert fire == datetime(2026, 4, 5, 10, tzinfo=UTC)
