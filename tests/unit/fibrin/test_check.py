"""`fibrin check` says what the agent's status gives reason to say."""

from __future__ import annotations

from fibrin.cli.check import Level, of_status


def test_a_status_with_nothing_to_say_is_in_order() -> None:
    """A whole mesh that is well has no warning."""
    assert [finding.level for finding in of_status({"blind": [], "unsolved": [], "stopped": ""})] == [Level.OK]


def test_what_was_left_to_people_and_goes_on_is_named() -> None:
    """Nothing new is opened for it, so `check` is where it is seen, with the command that tells more."""
    found = [f for f in of_status({"unsolved": ["inc-1"], "blind": []}) if f.level is Level.WARNING]
    assert [finding.subject for finding in found] == ["incident/inc-1"]
    assert "explain incident/inc-1" in found[0].hint
