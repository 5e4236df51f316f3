from __future__ import annotations

import pytest

from control.xds.world import AccessLogs, MeshOptions


@pytest.fixture
def options() -> MeshOptions:
    """Mesh options without access loggers, whose shape is held elsewhere."""
    return MeshOptions(access_logs=AccessLogs())
