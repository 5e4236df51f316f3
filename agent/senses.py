"""What the healing loop sees the mesh with."""

from __future__ import annotations

from dataclasses import dataclass

from agent.mesh import MeshView
from agent.ports import Detector, Localiser, Sight


@dataclass(frozen=True, slots=True)
class Senses:
    """Telemetry, the detectors over it, the localiser, and what the control plane tells."""

    sight: Sight
    detector: Detector
    localise: Localiser
    mesh: MeshView
