"""The language of drills: strict, with file, line and column; the library is written in it, the reference generated from it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from models.errors import InvalidInput, NotFound
from playbooks import library as playbooks
from simulations.drills.injections import group
from simulations.drills.loading import SHOP, check, choose, library, library_texts, load
from simulations.drills.places import Place
from simulations.drills.reference import markdown
from simulations.drills.schema import SHORT

from .conftest import TEXT, drill

DOCS = Path(__file__).parents[3] / "docs"
GOOD = TEXT.format(more="")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("share: 20%", "share: 20", "d.yaml:11:47: spec.faults[0].inject.errors.share: `20` is not a share"),
        ("errors:", "errrors:", "did you mean `errors`?"),
        ("service: catalog, version: v2, share", "share", "it strikes nowhere"),
        ("lasts: 10s", "lasts: 10", "spec.lasts: `10` is not a duration"),
        ("detectedWithin: 3s", "detectedWithin: 30s", "d.yaml:16:5: spec.expect.detectedWithin: 30 s is longer"),
        ("users: true, good: 97%", "good: 97%", "give `users: true` or a `service`"),
        ("outcome: healed", "outcome: absorbed", "leaves the agent nothing to do"),
        ("outcome: healed", "outcome: cured", "spec.expect.outcome"),
        ("  - inject:\n", "  - at: 11s\n    inject:\n", "it would begin at 11 s"),
        ("  - inject:\n", "  - setting: true\n    inject:\n", "everything is setting"),
        ("playbook: bad-version", "playbook: bad-verson", "did you mean `bad-version`?"),
        ("version: v2", "version: v9", "nothing runs at catalog v9 in the demo shop"),
        (
            "      errors:",
            "      kill: {service: cart}\n      errors:",
            "injects exactly one fault, found errors, kill",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(old: str, new: str, said: str) -> None:
    """Each mistake is found, where it stands, with what to write instead."""
    assert old in GOOD
    _, findings = check({"d.yaml": GOOD.replace(old, new, 1)})
    told = "\n".join(map(str, findings))
    assert said in told
    assert "d.yaml:" in told


def test_an_unknown_instance_is_answered_with_instances() -> None:
    """A near one if there is one, else those of the service; where the service is what is wrong, that is said."""
    near = min(each.id for each in SHOP if each.service == "catalog")
    for place, text, hint in (
        (Place(service="catalog", instance=f"{near}x"), f"nothing runs at {near}x", f"did you mean `{near}`?"),
        (Place(service="catalog", instance="zzz"), "nothing runs at zzz", f"catalog has {near}, "),
        (Place(service="catalgo", instance="zzz"), "there is no service `catalgo`", "did you mean `catalog`?"),
    ):
        with pytest.raises(InvalidInput, match=text) as caught:
            place.struck(SHOP)
        assert caught.value.hint.startswith(hint)


def test_errors_keep_a_drill_from_loading_and_names_are_unique() -> None:
    """One error and nothing loads; two drills of one name are an error that names both places."""
    with pytest.raises(InvalidInput, match="is the name of another drill"):
        load({"a.yaml": GOOD, "b.yaml": GOOD})
    assert [each.name for each in load({"a.yaml": GOOD})] == ["bad-version"]


def test_the_library_is_valid_and_covers_every_class() -> None:
    """At least thirty shipped drills without a finding, over every group of faults, with a short set that is short."""
    drills = library()
    assert len(drills) >= 30
    faults = Counter(group(e.inject.fault) for d in drills for e in d.spec.faults if not e.setting)
    assert min(faults.values()) >= 3
    assert len(faults) == 6
    assert {d.topic for d in drills} >= {"envoy", "process", "network", "mesh", "load", "version", "zone", "cascade"}
    short = [d for d in drills if d.metadata.labels.get("set") == SHORT]
    assert 5 <= len(short) <= 12
    assert sum(d.spec.lasts for d in short) < 120


def test_the_library_has_no_finding() -> None:
    """Neither errors nor advice."""
    assert [str(finding) for finding in check(library_texts())[1]] == []


def test_playbooks_that_act_alone_name_a_drill_there_is() -> None:
    """Every shipped playbook in mode auto names a drill of the library as its proof."""
    names = {d.name for d in library()}
    assert [b.name for b in playbooks() if b.spec.mode == "auto" and b.drill not in names] == []


def test_a_wrong_name_gets_the_nearest_one() -> None:
    """Choosing a drill that is not there says which one may be meant."""
    with pytest.raises(NotFound) as error:
        choose((drill(),), ("bad-verson",))
    assert "bad-version" in error.value.hint


def test_the_reference_is_current_and_whole() -> None:
    """docs/drill-reference.md is what the schema says now, and no field is without a meaning."""
    assert (DOCS / "drill-reference.md").read_text(encoding="utf-8") == markdown()
    rows = re.findall(r"^\| \*{0,2}`(\w+)`.*\| (.*?) \|$", markdown(), re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, text in rows if not text.strip()] == []
