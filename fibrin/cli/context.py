"""What a command talks to: the mesh of one state directory, found by the files its processes leave there."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agent.client import AgentClient
from control.client import ControlClient
from models.errors import Broken, Unavailable


@dataclass(frozen=True, slots=True)
class Target:
    """One mesh: its state directory, the settings file and the environment the command runs in."""

    state_dir: Path
    config: Path | None
    env: Mapping[str, str]

    def control(self, actor: str = "") -> ControlClient:
        """Return a client of the running control plane, with the operator's token; writes carry the person's name.

        Raises:
            Unavailable: none runs on this state directory.
        """
        return ControlClient(self._url("control"), token=self._token("operator"), actor=actor or person())

    def agent(self) -> AgentClient:
        """Return a client of the running agent.

        Raises:
            Unavailable: none runs on this state directory.
        """
        return AgentClient(self._url("agent"), token=self._token("operator"), actor=person())

    def address(self, process: str) -> Mapping[str, Any] | None:
        """Return what `process` (control, agent) wrote about itself, or None when it never ran here."""
        path = self.state_dir / f"{process}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Broken(
                f"cannot read {path}: {error}", hint="stop the mesh, delete the file, start it again"
            ) from error
        return found if isinstance(found, dict) else None

    def _url(self, process: str) -> str:
        found = self.address(process)
        if found is None or "url" not in found:
            raise Unavailable(
                f"no {_NAMES[process]} runs on {self.state_dir}",
                hint="start one with `fibrin up`, or name another mesh with --state-dir",
            )
        return str(found["url"])

    def _token(self, principal: str) -> str:
        try:
            return (self.state_dir / f"{principal}.token").read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def person() -> str:
    """Return the name of the person at the terminal ("" when the system does not know it)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's bare user id
        return ""


_NAMES = {"control": "control plane", "agent": "agent"}

pass_target = click.make_pass_decorator(Target)
