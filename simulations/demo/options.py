"""What a person may choose about the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_RATE = 85.0
"""Users' requests per second: the canary gets half of what reaches catalog, more than 60 a second."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`rate` None means the default; `output` is `table` or `json`; `keep_logs` gets a copy of state and logs at the end.
    `certify`: the demo is the drill of the playbooks it uses; write their certificates into this file.
    """

    headless: bool = False
    hold: bool = False
    seed: int = 1
    rate: float | None = None
    output: str = "table"
    keep_logs: Path | None = None
    certify: Path | None = None
