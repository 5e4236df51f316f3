"""Playbooks as text: what loads, what is refused, and where the finger points."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import playbooks
from models.errors import InvalidInput
from playbooks.lint import Level, lint
from playbooks.loading import library_texts
from playbooks.schema import Mode, Playbook
from playbooks.units import seconds, share

GOLDEN = Path(__file__).parent / "golden"

GOOD = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: mine}
spec:
  description: Mine.
  when:
    cause: [version]
    services: {names: [catalog]}
  steps:
  - name: shift
    action: {shiftTraffic: {}}
    verify: {deadline: 1m30s}
    undo: automatic
"""


def test_lint_output_is_as_recorded() -> None:
    """Every finding of a file full of slips: code, place, field, message and hint, in reading order."""
    findings = lint({"bad.yaml": (GOLDEN / "bad.yaml").read_text()})
    assert "".join(f"{finding}\n" for finding in findings) == (GOLDEN / "bad.txt").read_text()


def test_recorded_findings_cover_every_code() -> None:
    """The recorded file provokes each code at least once, so that none of them is dead."""
    codes = {line.rsplit("[", 1)[1].rstrip("]") for line in (GOLDEN / "bad.txt").read_text().splitlines()}
    assert codes == {f"PB{number:03}" for number in range(15)}


def test_load_reads_defaults_and_skips_other_kinds() -> None:
    """A short playbook gets careful defaults: shadow mode, half of the traffic, 70 % certainty."""
    (mine,) = playbooks.load({"a.yaml": GOOD + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"})
    assert (mine.name, mine.spec.mode, mine.spec.guard.max_traffic_share) == ("mine", Mode.SHADOW, 0.5)
    assert mine.spec.when.min_probability == 0.7
    assert mine.spec.steps[0].verify is not None
    assert mine.spec.steps[0].verify.deadline == 90.0


def test_load_refuses_everything_when_one_is_wrong() -> None:
    """One bad playbook keeps all of them from loading, with every problem named."""
    with pytest.raises(InvalidInput, match="and 29 more") as caught:
        playbooks.load({"good.yaml": GOOD, "bad.yaml": (GOLDEN / "bad.yaml").read_text()})
    assert {problem.source for problem in caught.value.problems} == {"bad.yaml"}
    assert all(problem.line and problem.column for problem in caught.value.problems)


def test_load_refuses_two_of_one_name_in_two_files() -> None:
    """A name is taken once over all files, and the message says where."""
    with pytest.raises(InvalidInput, match=r"b\.yaml:4:12.*the other one is a\.yaml:2"):
        playbooks.load({"a.yaml": GOOD, "b.yaml": GOOD})


def test_library_is_free_of_findings() -> None:
    """What Fibrin ships has not even a warning."""
    assert lint(library_texts()) == ()


def test_library_acts_alone_only_where_a_drill_vouches_for_it() -> None:
    """Of the shipped playbooks three act alone, one watches, the others ask; all but the net under them name a drill."""
    modes = {playbook.name: playbook.spec.mode for playbook in playbooks.library()}
    assert len(modes) >= 15
    assert {name for name, mode in modes.items() if mode is Mode.AUTO} == {
        "bad-instance",
        "bad-version",
        "dependency-down-fallback",
    }
    assert {name for name, mode in modes.items() if mode is Mode.SHADOW} == {"noisy-caller"}
    assert {playbook.name for playbook in playbooks.library() if not playbook.drill} == {"unknown"}


def test_library_is_written_for_strangers() -> None:
    """Every shipped file begins with a comment, has a description, and pages with words of its own."""
    for source, text in library_texts().items():
        assert text.startswith("# "), source
    for playbook in playbooks.library():
        assert len(playbook.spec.description) > 60, playbook.name
        pages = [playbook.spec.escalate, *(s.action.page for s in playbook.spec.steps if s.action.page)]
        assert any(page.summary for page in pages), playbook.name


def test_every_acting_step_has_its_way_back_and_deadline() -> None:
    """Each shipped step that changes something says how it is taken back, and proves itself in time."""
    acting = [s for p in playbooks.library() for s in p.spec.steps if s.action.page is None]
    assert len(acting) >= 18
    assert all(step.undo and step.verify for step in acting)
    assert [s.name for s in acting if s.undo == "nothing"] == ["restart the instance"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("names: [catalog]", "names: []", "the selector is empty"),
        ("names: [catalog]", "all: false", "the selector is empty"),
        ("names: [catalog]", "except: [catalog]", "the selector is empty"),
        ("names: [catalog]", "all: true, names: [catalog]", "not several"),
        ("shiftTraffic: {}", "shiftTraffic: {keep: 100%}", "less than 1"),
        ("shiftTraffic: {}", "limitConnections: {}", "limits nothing"),
        ("shiftTraffic: {}", "openBreaker: {respond: fallback, percent: 0}", "greater than or equal to 1"),
        ("shiftTraffic: {}", "shiftTrafic: {}", "did you mean `shiftTraffic`"),
        ("deadline: 1m30s", "deadline: 0s", "greater than 0"),
        ("deadline: 1m30s", "deadline: 1m30s, holdOut: {share: 30%}", "less than or equal to 0.2"),
        ("cause: [version]", "cause: []", "at least 1 item"),
        ("metadata: {name: mine}", "metadata: {name: mine, nmespace: x}", "did you mean `namespace`"),
        ("fibrin.dev/v1", "fibrin.dev/v2", "input should be 'fibrin.dev/v1'"),
        ("undo: automatic", "undo: none", "'automatic'"),
    ],
)
def test_slips_are_refused(old: str, new: str, message: str) -> None:
    """Each single slip in a good playbook is found and explained."""
    assert old in GOOD
    findings = [f for f in lint({"a.yaml": GOOD.replace(old, new)}) if f.level is Level.ERROR]
    assert any(message in str(finding) for finding in findings), findings


@pytest.mark.parametrize("action", ["shiftTraffic: {keep: 10%}", "setTimeout: {timeout: 1s}"])
def test_a_hold_out_that_leaves_nobody_out_is_refused(action: str) -> None:
    """An action that spares as many anyway, or concerns every request, has no slice to compare with."""
    text = GOOD.replace("deadline: 1m30s", "deadline: 1m30s, holdOut: {share: 5%}").replace("shiftTraffic: {}", action)
    assert "PB015" in {finding.code for finding in lint({"a.yaml": text})}


@pytest.mark.parametrize("text", ["10", "1.5", "ten s", "", "10 s", "-1s", "1e3s", "9" * 5000 + "s", "s"])
def test_durations_need_a_number_and_a_unit(text: str) -> None:
    """What is not plainly a duration is refused."""
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


@given(st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_add_their_parts(minutes: int, whole: int, milli: int) -> None:
    """A duration is the sum of its parts."""
    assert seconds(f"{minutes}m{whole}s{milli}ms") == pytest.approx(minutes * 60 + whole + milli / 1000)


@pytest.mark.parametrize(("written", "read"), [("20%", 0.2), ("0.5%", 0.005), (0.2, 0.2), (1, 1.0), ("100 %", 1.0)])
def test_shares_are_percent_or_ratio(written: object, read: float) -> None:
    """`20%` and `0.2` are the same."""
    assert share(written) == read


@pytest.mark.parametrize("written", ["20", "120%", 1.2, -0.1, True, "%", None])
def test_shares_outside_their_range_are_refused(written: object) -> None:
    """What is not a share between 0 and 100 % is refused."""
    with pytest.raises(ValueError, match="not a share"):
        share(written)


def test_schema_for_editors_is_complete() -> None:
    """The JSON schema names every action and refuses unknown fields."""
    schema = Playbook.model_json_schema(by_alias=True)
    action = schema["$defs"]["Action"]
    assert "openBreaker" in action["properties"]
    assert action["additionalProperties"] is False
