"""Durations on the command line: with units as playbooks have them, or bare seconds."""

from __future__ import annotations

import click

from playbooks.units import seconds


class Duration(click.ParamType[float]):
    """Seconds from `least` on, written bare (`0.5`) or with units (`500ms`, `1m30s`)."""

    name = "duration"

    def __init__(self, least: float) -> None:
        self._least = least

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds; a usage error names what was found."""
        try:
            found = float(str(value))
        except ValueError:
            try:
                found = seconds(value)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        if not self._least <= found < float("inf"):
            self.fail(f"`{value}` is not a duration of at least {self._least:g} s", param, ctx)
        return found
