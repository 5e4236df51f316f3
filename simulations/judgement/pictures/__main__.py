"""`python -m simulations.judgement.pictures DIR`: draw the pictures of docs/models.md into DIR."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.errors import FibrinError
from simulations.judgement.pictures import canary, detection, general, localisation
from simulations.outputs import folder
from simulations.plot import drawing


def main() -> int:
    """Draw everything; 2 when nothing can be written there."""
    parser = argparse.ArgumentParser(prog="python -m simulations.judgement.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the SVG files go")
    parser.add_argument("--cases", type=int, default=40, help="random incidents per sort of fault (default 40)")
    options = parser.parse_args()
    try:
        folder(options.folder)
    except FibrinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, panels in (
        ("models-detection", [one.panel() for one in detection.stories()]),
        ("models-canary", [one.panel() for one in canary.stories()]),
        ("models-localisation", localisation.panels(options.cases)),
        ("models-general", [one.panel() for one in general.stories()]),
    ):
        place = options.folder / f"{name}.svg"
        place.write_text(drawing(panels), encoding="utf-8")
        print(place)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
