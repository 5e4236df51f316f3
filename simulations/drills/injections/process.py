"""Faults of an application's process."""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from playbooks.units import Duration, span
from simulations.drills.places import Place


class Kill(Place):
    """The application's process is killed (SIGKILL) and stays away until the fault ends."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} is killed"


class Pause(Place):
    """The application's process is stopped (SIGSTOP): connections stay open and nobody answers."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} stands still"


class CrashLoop(Place):
    """The application's process is killed again and again, and comes back each time."""

    every: Annotated[Duration, Field(ge=1)] = 3.0
    """From one kill to the next."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} crashes every {span(self.every)}"


class SlowStart(Place):
    """The application's process is restarted and is slow at first, getting faster over `ramp` of the entry."""

    factor: Annotated[float, Field(gt=1, le=1000, strict=False)]
    """Times as slow at the start."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} restarts, {self.factor:g}× slower at first"


class FileDescriptors(Place):
    """The application's process may open no more files or sockets than it has now (and `left` more)."""

    left: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many more."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} has {self.left} file descriptors left"


OnProcess: TypeAlias = Kill | Pause | CrashLoop | SlowStart | FileDescriptors
