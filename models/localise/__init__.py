"""Localisation: which one fault explains all the symptoms? A small Bayesian model comparison over the dependency graph."""

from models.localise.evidence import Evidence
from models.localise.ranking import localise
from models.localise.reach import Group, split

__all__ = ["Evidence", "Group", "localise", "split"]
