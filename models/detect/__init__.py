"""Detection: is something wrong? Sequential tests per golden signal within one false-alarm budget for the mesh."""

from models.detect.bank import DetectorBank
from models.detect.baseline import Baseline
from models.detect.budget import FalseAlarmBudget

__all__ = ["Baseline", "DetectorBank", "FalseAlarmBudget"]
