"""Detection: is something wrong? Sequential tests per golden signal within one false-alarm budget for the mesh."""

from models.detect.bank import DetectorBank
from models.detect.baseline import Baseline
from models.detect.budget import FalseAlarmBudget
from models.detect.engine import Engine, Tick

__all__ = ["Baseline", "DetectorBank", "Engine", "FalseAlarmBudget", "Tick"]
