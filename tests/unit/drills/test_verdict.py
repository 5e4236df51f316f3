"""The arithmetic of a verdict: when users were well again, who is innocent, what came of it, and what a report says of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from agent.telemetry.views import Golden
from models.errors import InvalidInput, NotFound
from models.incident import Stage
from models.overlay import Change, EjectInstance, OpenBreaker, Overlay, Owner, ShiftTraffic, ShiftZones
from simulations.drills import report
from simulations.drills.guilt import guilty, innocent
from simulations.drills.loading import SHOP, library
from simulations.drills.objectives import failing, services_well_again, unknown, well_again
from simulations.drills.report.charts import Chart, scene, svg
from simulations.drills.report.files import junit
from simulations.drills.report.page import page
from simulations.drills.report.told import Moment, Series
from simulations.drills.runner import Runner
from simulations.drills.schema import Drill, Objective, Outcome
from simulations.drills.seen import Sample, Seen
from simulations.drills.verdict import Verdict
from simulations.journal import Record

from .conftest import MemoryMesh, drill

ONSET = 1000.0


def _records(misses: dict[float, bool], until: float = 10.0) -> list[Record]:
    """Ten requests a second from a second before the onset on; `misses` says which (by second from the onset) missed."""
    found = []
    for k in range(-10, int(until * 10)):
        at = round(k / 10, 1)
        missed = misses.get(at, False)
        found.append(Record(0.0, ONSET + at, "home", 500 if missed else 200, 0.0, missed))
    return found


def test_users_are_well_again_after_the_last_bad_second() -> None:
    """One miss alone is nobody's fault; several in a second are, and the last of them counts."""
    assert well_again(_records({}), ONSET, ONSET + 10, 0.97) == 0.0
    assert well_again(_records({3.0: True}), ONSET, ONSET + 10, 0.97) == 0.0
    burst = {2.0: True, 2.2: True, 2.4: True}
    assert well_again(_records(burst), ONSET, ONSET + 10, 0.97) == pytest.approx(2.4)
    late = {9.0: True, 9.2: True}
    assert well_again(_records({**burst, **late}), ONSET, ONSET + 10, 0.97) is None


def _sample(at: float, errors: int, requests: int = 100, p99: float = 0.05) -> Sample:
    golden = Golden(requests, errors, 50.0, errors / requests if requests else 0.0, 0.01, 0.02, p99)
    return Sample(ONSET + at, {"cart": golden})


def test_objectives_of_services_are_judged_by_the_latest_sample() -> None:
    """Failing, slow, silent and idle are told apart; silence is no failure."""
    wanted = Objective.model_validate_json('{"service": "cart", "good": "98%", "p99": "100ms"}')
    assert failing(wanted, (), [_sample(0, 0)], ONSET) == ""
    assert "95% good" in failing(wanted, (), [_sample(0, 5)], ONSET)
    assert "p99" in failing(wanted, (), [_sample(0, 0, p99=0.3)], ONSET)
    assert unknown(failing(wanted, (), [_sample(0, 0)], ONSET + 10))
    assert unknown(failing(wanted, (), [_sample(0, 0, requests=0)], ONSET))
    samples = [_sample(k, 50 if 2 <= k <= 4 else 0) for k in range(10)]
    assert services_well_again((wanted,), samples, ONSET, ONSET + 10) == 4.0


def _shipped(name: str) -> Drill:
    return next(each for each in library() if each.name == name)


@pytest.mark.parametrize(
    ("name", "change", "harmless"),
    [
        ("bad-version", ShiftTraffic("catalog", {"v1": 100, "v2": 0}), True),
        ("bad-version", ShiftTraffic("catalog", {"v1": 0, "v2": 100}), False),
        ("bad-version", EjectInstance("cart", "cart-v1-1"), False),
        ("bad-instance", EjectInstance("cart", "cart-v1-2"), True),
        ("bad-instance", EjectInstance("cart", "cart-v1-1"), False),
        ("slow-zone", ShiftZones("catalog", {"zone-a": 100, "zone-b": 0}), True),
        ("slow-zone", ShiftZones("catalog", {"zone-a": 0, "zone-b": 100}), False),
        ("dependency-down", OpenBreaker("recommendation", respond="fallback"), True),
        ("dependency-down", OpenBreaker("catalog"), False),
        ("two-faults", EjectInstance("cart", "cart-v1-2"), True),
        ("control-plane-down", EjectInstance("cart", "cart-v1-2"), False),
        ("overload", OpenBreaker("storefront"), True),
    ],
)
def test_only_who_is_struck_may_be_touched(name: str, change: Change, *, harmless: bool) -> None:
    """Acts on who is at fault are rightful, all others hit an innocent; a setting is no guilt, `mayTouch` is leave."""
    wanted = _shipped(name)
    touched = innocent((change,), guilty(wanted, SHOP), wanted.spec.expect.may_touch)
    assert (touched == ()) is harmless


async def _seen(mesh: MemoryMesh) -> Seen:
    return await Runner(mesh, lambda _, __: None, mesh.clock).play(drill())


async def test_an_innocent_hit_or_an_open_end_fails_the_drill(mesh: MemoryMesh) -> None:
    """Whatever else went well: one overlay on a bystander, or one person called for nothing, and it has not passed."""
    seen = await _seen(mesh)
    assert Verdict(seen).passed
    hit = Overlay("ov-2", EjectInstance("cart", "cart-v1-1"), Owner.AGENT, "a", "r", seen.onset + 2, seen.ended, 30)
    spoiled = Verdict(replace(seen, overlays=(*seen.overlays, hit)))
    assert [check.name for check in spoiled.checks if not check.ok] == ["innocents"]
    early = seen.drill.spec.expect.model_copy(update={"hands_off_until": 2.0})
    spec = seen.drill.spec.model_copy(update={"expect": early})
    hasty = Verdict(replace(seen, drill=seen.drill.model_copy(update={"spec": spec})))
    assert [check.name for check in hasty.checks if not check.ok] == ["agent"]
    lost = replace(seen.incidents[0], stage=Stage.ESCALATED, times={"detected": seen.onset + 1})
    called = Verdict(replace(seen, incidents=(lost,), overlays=()))
    assert called.outcome is Outcome.ESCALATED
    assert not called.passed
    either = seen.drill.spec.expect.model_copy(update={"outcome": Outcome.ANSWERED})
    spec = seen.drill.spec.model_copy(update={"expect": either})
    for end in (seen, called.seen):
        answered = Verdict(replace(end, drill=seen.drill.model_copy(update={"spec": spec})))
        assert next(check.ok for check in answered.checks if check.name == "outcome")


async def test_a_report_is_one_file_that_says_everything(mesh: MemoryMesh, tmp_path: Path) -> None:
    """The page loads nothing from anywhere; JUnit names what failed; the JSON is enough to write all of it again."""
    good = report.told(Verdict(await _seen(mesh)))
    seen = await _seen(MemoryMesh(mesh.clock, heals_after_s=None))
    bad = report.told(Verdict(seen))
    place = report.write(tmp_path, (good, bad), 0.0)
    text = place.read_text(encoding="utf-8")
    assert "src=" not in text
    assert "url(" not in text
    assert "http" not in text.replace("HTTP", "")
    for wanted in ("onset", "detected", "recovered", "version catalog/v2", "shift traffic of catalog", "<svg", "<path"):
        assert wanted in text, wanted
    assert report.read(tmp_path) == (good, bad)
    assert page(report.read(tmp_path), 0.0) == text
    suite = ET.fromstring((tmp_path / "junit.xml").read_text(encoding="utf-8"))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "within 3 s promised, never found" in (failure.text or "")
    assert junit(()).count("testcase") == 0


def test_the_charts_of_a_drill_can_be_read_across() -> None:
    """One time axis, one colour per service and the fault's time in all of them, whatever each one shows; easy numbers."""
    cart = Series("cart", (-3.0, 0.0, 12.0), (0.0, 0.1, 0.149))
    ads = Series("ads", (-1.0, 14.0), (0.05, 0.02))
    around = scene((cart, ads), (Moment(0.0, "onset", "it breaks"),), 10.0)
    both, one = (svg(Chart("p99", lines, lambda v: f"{v:g}", 0.01), around) for lines in ((ads, cart), (cart,)))
    shown = [re.findall(r'class="tick"[^>]*>(-?\d+ s)<', text) for text in (both, one)]
    assert shown[0] == shown[1] == ["-2 s", "0 s", "2 s", "4 s", "6 s", "8 s", "10 s", "12 s", "14 s"]
    colours = [re.findall(r'stroke="(#\w+)" stroke-width="1.6"><title>cart<', text) for text in (both, one)]
    assert colours[0] == colours[1]
    assert len(colours[0]) == 1
    assert re.findall(r'<rect class="fault"[^>]*>', both) == re.findall(r'<rect class="fault"[^>]*>', one)
    assert ">0.2<" in one  # not 0.149


def test_a_missing_or_broken_report_is_told(tmp_path: Path) -> None:
    """No report, or a file that is none, is a clear error."""
    with pytest.raises(NotFound, match="there is no report"):
        report.read(tmp_path)
    (tmp_path / "results.json").write_text('{"a": 1}')
    with pytest.raises(InvalidInput, match="holds no drill results"):
        report.read(tmp_path)
