"""A campaign as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from fibrin.cli.simulate import simulate
from models.errors import InvalidInput
from simulations.simulator.campaign import Played, Quiet
from simulations.simulator.faults import InstanceErrors
from simulations.simulator.picture import picture
from simulations.simulator.scenario import single
from simulations.simulator.score import score

SVG = "{http://www.w3.org/2000/svg}"
HEALED = Played(
    name="1/0/0",
    scenario=single("instance-errors", InstanceErrors("a-v1-1", 0.5)),
    detected_s=1.0,
    first=True,
    third=True,
    kind=True,
    named="instance a/a-v1-1",
    truth="instance a/a-v1-1",
    acted_s=1.2,
    mitigated_s=2.0,
    escalated=False,
    innocent=0,
    undone=0,
    spoiled=5,
    usual=0.1,
    asked=100,
    ending="resolved",
    curable=True,
)


def test_the_picture_shows_shares_times_and_classes() -> None:
    """Four panels; a class of which nothing is known has a line and no dot, and a share stands where it belongs."""
    missed = replace(
        HEALED,
        scenario=replace(HEALED.scenario, kind="service-down"),
        detected_s=None,
        first=False,
        mitigated_s=None,
        curable=False,
    )
    played = [HEALED, HEALED, missed]
    root = ET.fromstring(picture(score(played, Quiet()), played))
    panels = root.findall(f"{SVG}g")
    words = [{text.text for text in panel.iter(f"{SVG}text")} for panel in panels]
    assert ["3 incidents" in words[0], "detected (3)" in words[0]] == [True, True]
    assert {"detected", "acted", "users well"} <= words[1]
    assert {"instance-errors (2)", "service-down (1)"} <= words[2]
    assert {"instance-errors (2)", "service-down (0)"} <= words[3]
    dots = [[float(c.get("cx", "nan")) for c in panel.findall(f"{SVG}circle")] for panel in panels]
    assert [len(some) for some in dots] == [5, 0, 2, 1]
    assert dots[2][1] > dots[2][0]  # what went as it should lies right of what did not


@pytest.mark.parametrize("other", [("--replay", "3/0/1"), ("--compare", "1")])
def test_a_picture_of_what_is_no_campaign_is_refused(other: tuple[str, str], tmp_path: Path) -> None:
    """One incident and a comparison have no such picture, which is said before anything is played."""
    drawn = tmp_path / "x.svg"
    result = CliRunner().invoke(simulate, [*other, "--picture", str(drawn)])
    assert isinstance(result.exception, InvalidInput)
    assert "--picture" in str(result.exception)
    assert not drawn.exists()
