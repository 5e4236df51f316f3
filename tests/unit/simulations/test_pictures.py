"""The pictures of docs/models.md say what the models do."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from simulations.judgement.pictures import canary, detection, general, localisation
from simulations.plot import Axis, Dots, Line, Panel, drawing

SVG = "{http://www.w3.org/2000/svg}"
DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("trouble", detection.TROUBLES, ids=lambda t: t.title)
def test_the_detection_picture_says_what_is_caught(trouble: detection.Trouble) -> None:
    """Each trouble alarms while it lasts, or stays below the threshold, as its title says."""
    story = detection.play(trouble)
    assert (story.alarmed_s is not None and story.alarmed_s <= trouble.lasts_s) is trouble.caught
    assert trouble.caught or max(story.evidence) < 1


@pytest.mark.parametrize("tale", canary.TALES, ids=lambda t: t.title)
def test_the_canary_picture_says_what_is_rolled_back(tale: canary.Tale) -> None:
    """Each canary is rolled back after its onset, or never, as its title says."""
    story = canary.play(tale)
    assert (story.back_s is not None and story.back_s > 0) is tale.caught
    assert tale.caught or max(story.evidence) < story.limit


@pytest.mark.parametrize("trouble", general.TROUBLES, ids=lambda t: t.title)
def test_the_general_picture_says_what_is_caught(trouble: general.Trouble) -> None:
    """The score passes 0.5 within the trouble, or does not, as its title says."""
    assert bool(general.play(trouble).alarms) is trouble.caught


def test_the_localisation_picture_draws_what_was_found() -> None:
    """A dot for each bin of probabilities that is not empty and for each sort of fault, its bar around it."""
    sure, sorts = localisation.panels(2)
    assert len(sure.dots[0].x) >= 3
    assert len(sorts.dots[0].x) == len(sorts.y.ticks) >= 8
    for dots in (sure.dots[0], sorts.dots[0]):
        assert all(low <= x <= high for x, (low, high) in zip(dots.x, dots.bars, strict=True))


def test_a_drawing_shows_every_part_in_its_place() -> None:
    """Lines break at NaN, values beyond an axis lie on its end, and words near the right edge stand left of their dot."""
    axis = Axis("x", 0.0, 10.0)
    panel = Panel(
        "a < b",
        axis,
        Axis("y", 1.0, 100.0, log=True),
        lines=(Line((0, 1, 2, 3), (1, 10, math.nan, 1000), "line"),),
        dots=(Dots((0.0, 10.0), (1.0, 100.0), words=("first", "last")),),
        spans=((2.0, 4.0),),
    )
    root = ET.fromstring(drawing([panel, panel, panel]))
    assert root.get("viewBox") == "0 0 840 520"
    group = root.findall(f"{SVG}g")[0]
    path = next(p.get("d") for p in group.findall(f"{SVG}path") if p.get("stroke-width"))
    assert path is not None
    assert path.count("M") == 2
    anchors = {t.text: t.get("text-anchor") for t in group.iter(f"{SVG}text")}
    assert (anchors["first"], anchors["last"]) == ("start", "end")
    assert "a < b" in anchors
    heights = [float(c.get("cy", "nan")) for c in group.findall(f"{SVG}circle")]
    assert heights[0] > heights[1] == pytest.approx(float(path.rsplit(" ", 1)[1]))


@pytest.mark.parametrize("name", ["detection", "canary", "localisation", "general"])
def test_the_pictures_in_docs_are_drawings_of_this_code(name: str) -> None:
    """Each stands in docs/models.md, and has the titles that are drawn today."""
    drawn = ET.parse(DOCS / f"models-{name}.svg").getroot()
    words = {text.text for text in drawn.iter(f"{SVG}text")}
    titles = {
        "detection": {t.title for t in detection.TROUBLES},
        "canary": {t.title for t in canary.TALES},
        "localisation": {"What a probability is worth", "The right cause in first place, by sort of fault"},
        "general": {t.title for t in general.TROUBLES},
    }[name]
    assert titles <= words
    assert f"models-{name}.svg" in (DOCS / "models.md").read_text(encoding="utf-8")
