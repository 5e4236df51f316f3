"""The files of a report: `index.html`, `junit.xml` and `results.json` in one folder; the last one is enough to write the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from pydantic import TypeAdapter, ValidationError

from models.errors import Broken, InvalidInput, NotFound
from simulations.drills.report.page import page
from simulations.drills.report.told import Told

PAGE, JUNIT, RESULTS = "index.html", "junit.xml", "results.json"
_TOLD: Final = TypeAdapter(tuple[Told, ...])


def write(folder: Path, drills: Sequence[Told], made: float) -> Path:
    """Write all three files and return the page's place. Raises Broken when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS).write_bytes(_TOLD.dump_json(tuple(drills), indent=1))
        (folder / JUNIT).write_text(junit(drills), encoding="utf-8")
        (folder / PAGE).write_text(page(drills, made), encoding="utf-8")
    except OSError as error:
        raise Broken(f"cannot write the report to {folder}: {error.strerror}", hint="name another folder") from error
    return folder / PAGE


def read(folder: Path) -> tuple[Told, ...]:
    """Read the results of a report. Raises NotFound without one, InvalidInput when it is something else."""
    place = folder / RESULTS if folder.is_dir() else folder
    try:
        return _TOLD.validate_json(place.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no report at {place}", hint="`fibrin drill run NAME --report DIR` writes one"
        ) from error
    except ValidationError as error:
        text = f"{place} holds no drill results: {error.errors()[0]['msg']}"
        raise InvalidInput(text, hint="name the folder of a report, or its results.json") from error


def as_json(drills: Sequence[Told]) -> str:
    """Return the results as JSON on one line."""
    return _TOLD.dump_json(tuple(drills)).decode()


def junit(drills: Sequence[Told]) -> str:
    """Return JUnit XML: one test case per drill, its failed checks as the failure."""
    failed = sum(not drill.passed for drill in drills)
    total = sum(drill.lasted_s for drill in drills)
    suite = ET.Element(
        "testsuite", name="fibrin drills", tests=str(len(drills)), failures=str(failed), time=f"{total:.3f}"
    )
    for drill in drills:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"drills.{drill.topic or 'other'}",
            name=drill.name,
            time=f"{drill.lasted_s:.3f}",
        )
        if not drill.passed:
            lines = [f"{c.name}: {c.wanted} promised, {c.found} found" for c in drill.checks if not c.ok]
            failure = ET.SubElement(case, "failure", message=lines[0] if lines else drill.why)
            failure.text = "\n".join(lines)
        ET.SubElement(case, "system-out").text = "\n".join(f"{m.at:+.2f} s {m.kind}: {m.text}" for m in drill.moments)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
