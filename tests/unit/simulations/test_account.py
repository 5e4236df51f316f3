"""The demo's arithmetic: what users lost, when it was over, and the exit code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.incidents import Incident
from models.incident import Cause, CauseKind, Signal, Stage
from models.overlay import Change, EjectInstance, Overlay, Owner, ShiftTraffic
from simulations.demo import report
from simulations.demo.account import Result, main_incident, result, window
from simulations.faults import VersionErrors
from simulations.journal import Record

FAULT = VersionErrors("catalog", "v2")
CAUSE = Cause(CauseKind.VERSION, "catalog", "v2", Signal.ERRORS, 0.97)


def _request(sent: float, latency: float = 0.1, *, missed: bool = False, trouble: tuple[str, ...] = ()) -> Record:
    return Record(sent, sent, "home", 500 if missed else 200, latency, missed, trouble)


def _incident(opened_at: float, cause: Cause | None = CAUSE, stage: Stage = Stage.RESOLVED) -> Incident:
    causes = (cause,) if cause else ()
    return Incident("inc-1", opened_at, opened_at - 0.1, stage, causes=causes, times={"verified": opened_at + 2})


def _overlay(change: Change, at: float = 101.0, owner: Owner = Owner.AGENT) -> Overlay:
    return Overlay("ov", change, owner, "agent", "because", at, at + 30, 30)


RECORDS = (
    _request(98.0, missed=True, trouble=("catalog-v2-1",)),  # seen before the onset: not of this breakage
    _request(99.95, 0.1, missed=True, trouble=("catalog-v2-1",)),  # in flight at the onset
    _request(100.5, 0.2, missed=True, trouble=("catalog-v2-2",)),
    _request(101.0, 0.5, missed=True),  # missed for another reason
    _request(105.0),
    _request(112.5, missed=True, trouble=("catalog-v2-1",)),  # sent after the window
)


def test_window_counts_what_users_saw_since_the_onset() -> None:
    """Lost counts every miss, mitigated only misses because of the fault, by when the user saw them."""
    seen = window(RECORDS, FAULT, 100.0, 12.0)
    assert (seen.requests, seen.lost, seen.lost_to_fault) == (4, 3, 2)
    assert seen.mitigated_s == pytest.approx(0.7)
    assert seen.over


def test_misses_at_the_end_of_the_window_mean_it_is_not_over() -> None:
    """A breakage whose last miss lies in the window's last seconds was not mitigated."""
    late = (*RECORDS, _request(111.0, missed=True, trouble=("catalog-v2-1",)))
    seen = window(late, FAULT, 100.0, 12.0)
    assert not seen.over
    row = result("x", FAULT, seen, [_incident(100.4)], [])
    assert (row.healed, row.mitigated_s) == (False, None)


def test_good_breakage_is_healed() -> None:
    """Right cause, verified action on the faulty version: healed, with the times measured from the onset."""
    seen = window(RECORDS, FAULT, 100.0, 12.0)
    row = result("x", FAULT, seen, [_incident(100.4)], [_overlay(ShiftTraffic("catalog", {"v1": 100, "v2": 0}))])
    assert (row.healed, row.cause_right, row.innocent_hit) == (True, True, False)
    assert row.detected_s == pytest.approx(0.4)
    assert row.verified_s == pytest.approx(2.4)
    assert row.cause == "version catalog/v2 (errors)"


def test_overlay_on_an_innocent_or_before_the_onset_is_found() -> None:
    """An agent's overlay elsewhere, or laid while nothing was broken, hit an innocent; a person's does not count."""
    seen = window(RECORDS, FAULT, 100.0, 12.0)
    eject = EjectInstance("cart", "cart-v1-1")
    assert result("x", FAULT, seen, [], [_overlay(eject)]).innocent_hit
    assert not result("x", FAULT, seen, [], [_overlay(eject, owner=Owner.PERSON)]).innocent_hit
    early = _overlay(ShiftTraffic("catalog", {"v1": 100, "v2": 0}), at=99.0)
    assert result("x", FAULT, seen, [], [early]).innocent_hit


def test_incident_with_the_right_cause_is_the_main_one() -> None:
    """Of several incidents the one that names the fault counts; without one, the first; without any, none."""
    wrong = replace(_incident(100.2, Cause(CauseKind.SERVICE, "storefront", "", Signal.ERRORS, 0.5)), id="inc-0")
    right = _incident(100.4)
    old = replace(_incident(90.0), id="inc-old")
    assert main_incident(FAULT, [wrong, right, old], 100.0) is right
    assert main_incident(FAULT, [wrong, old], 100.0) is wrong
    assert main_incident(FAULT, [old], 100.0) is None
    assert result("x", FAULT, window((), FAULT, 100.0, 12.0), [], []).detected_s is None


GOOD = Result("a", "version catalog/v2 (errors)", True, True, False, 0.4, 0.7, 2.0, 3, 120, 800, "p", ("eject",))  # noqa: FBT003


def test_exit_code_is_zero_only_if_all_is_well() -> None:
    """A wrong cause, an unhealed breakage, an innocent hit, a missing breakage or a broken audit log is exit code 1."""
    assert report.exit_code([GOOD], 1, audit_ok=True) == 0
    assert report.exit_code([GOOD], 2, audit_ok=True) == 1
    assert report.exit_code([GOOD], 1, audit_ok=False) == 1
    for bad in (replace(GOOD, healed=False), replace(GOOD, innocent_hit=True), replace(GOOD, cause_right=False)):
        assert report.exit_code([bad], 1, audit_ok=True) == 1


def test_json_has_the_promised_shape() -> None:
    """The object names every field users build on, on one line."""
    text = report.as_json([GOOD], audit_ok=True)
    data = json.loads(text)
    promised = {"name", "cause", "cause_right", "healed", "innocent_hit", "detected_s", "mitigated_s"}
    assert promised | {"lost_with", "lost_without"} <= data["breakages"][0].keys()
    assert data["audit_ok"] is True
    assert "\n" not in text
