"""The one place where settings enter: flag over environment over file over default, read once.

Each room declares what it needs as a frozen dataclass (`ControlSettings`, `AgentSettings`); this module fills such a
class from all sources and says exactly which source was wrong. `os.environ` is read nowhere else.

* file: YAML, one section per process (`control:`, `agent:`, `proxy:`), from `--config` or `FIBRIN_CONFIG`
* environment: `FIBRIN_<SECTION>_<FIELD>`, e.g. `FIBRIN_CONTROL_PORT=16080`
* flags: what the command line passes in `flags`; `None` means not given
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from models.errors import InvalidInput, Problem

T = TypeVar("T")

DEFAULT_STATE_DIR = Path("~/.fibrin")
_SEVERAL = frozenset({"tuple_type", "list_type", "set_type", "frozen_set_type"})
SECTIONS = frozenset({"control", "agent", "proxy"})


def environment() -> Mapping[str, str]:
    """Return the process environment (the only reader of `os.environ`)."""
    return os.environ


def state_dir(flag: str | None, env: Mapping[str, str]) -> Path:
    """Return the state directory: flag, else `FIBRIN_STATE_DIR`, else `~/.fibrin`."""
    chosen = flag or env.get("FIBRIN_STATE_DIR") or str(DEFAULT_STATE_DIR)
    return Path(chosen).expanduser().absolute()


def read(
    section: str,
    shape: type[T],
    *,
    flags: Mapping[str, object],
    env: Mapping[str, str],
    config: Path | None = None,
) -> T:
    """Build a `shape` (a dataclass type) from every source.

    Args:
        section: the part of the file and of the environment's names, e.g. `control`.
        shape: the dataclass to fill; fields without default must come from a source.
        flags: values from the command line by field name; `None` values count as not given.
        env: the environment.
        config: the settings file; `FIBRIN_CONFIG` when None.

    Raises:
        InvalidInput: an unknown key, a value of the wrong type, or an unreadable file; every finding is listed.
    """
    fields = {f.name for f in dataclasses.fields(shape)} if dataclasses.is_dataclass(shape) else set[str]()
    values: dict[str, object] = {}
    origin: dict[str, str] = {}
    problems: list[Problem] = []
    prefix = f"FIBRIN_{section.upper()}_"
    sources: list[tuple[str, Mapping[str, object]]] = [
        (str(config or env.get("FIBRIN_CONFIG") or ""), _from_file(section, config, env)),
        ("environment", {k.removeprefix(prefix).lower(): _said(v) for k, v in env.items() if k.startswith(prefix)}),
        ("flag", {k: v for k, v in flags.items() if v is not None}),
    ]
    for source, found in sources:
        for key, value in found.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(fields))}"
                problems.append(Problem("unknown setting", source=source, field=f"{section}.{key}", hint=hint))
                continue
            values[key] = value
            origin[key] = source
    if not problems:
        try:
            return TypeAdapter(shape).validate_python(values)
        except ValidationError as error:
            for detail in error.errors():
                key = str(detail["loc"][0]) if detail["loc"] else ""
                problems.append(_problem(detail, f"{section}.{key}", origin.get(key, "default")))
    raise InvalidInput(
        f"the {section} settings are not usable",
        hint="correct the values named above; flags win over environment, environment over file",
        problems=tuple(problems),
    )


def _problem(detail: ErrorDetails, field: str, source: str) -> Problem:
    """Return what is wrong with a value; one word where several belong is told in the source's own notation."""
    found = detail["input"]
    if not (detail["type"] in _SEVERAL and isinstance(found, str)):
        return Problem(f"{detail['msg']}, found {found!r}", source=source, field=field)
    listed = json.dumps([word.strip(" \"'") for word in found.strip("[]").split(",") if word.strip()])
    hint = f"write a JSON list: '{listed}'" if source == "environment" else f"write a list: {listed}"
    return Problem(f"expected a list, found {found!r}", source=source, field=field, hint=hint)


def _said(text: str) -> object:
    """Return an environment variable's value: a list or mapping where it is written as one (JSON, or YAML in one line)."""
    if text[:1] not in {"[", "{"}:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # some other text that begins so; the field's type says what it should be
        return text


def _from_file(section: str, config: Path | None, env: Mapping[str, str]) -> Mapping[str, object]:
    name = config or (Path(env["FIBRIN_CONFIG"]) if env.get("FIBRIN_CONFIG") else None)
    if name is None:
        return {}
    try:
        tree = yaml.safe_load(name.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InvalidInput(
            f"cannot read the settings file {name}: {error.strerror}", hint="give another --config"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{name} is not YAML: {error}", hint="see docs/settings.md") from error
    if not isinstance(tree, dict):
        raise InvalidInput(f"{name}: expected sections {', '.join(sorted(SECTIONS))}, found {type(tree).__name__}")
    unknown = sorted(str(key) for key in tree if key not in SECTIONS)
    if unknown:
        raise InvalidInput(
            f"{name}: unknown section {', '.join(unknown)}", hint=f"known: {', '.join(sorted(SECTIONS))}"
        )
    found = tree.get(section) or {}
    if not isinstance(found, dict):
        raise InvalidInput(f"{name}: section {section} must be a mapping, found {type(found).__name__}")
    return {str(key): value for key, value in found.items()}
