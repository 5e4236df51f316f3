"""What a drill is told as: one page for people (HTML), one file for CI (JUnit XML), one for machines (JSON)."""

from simulations.drills.report.files import read, write
from simulations.drills.report.told import Told, told

__all__ = ["Told", "read", "told", "write"]
