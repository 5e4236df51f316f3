"""Localisation: which one fault explains all the symptoms? A small Bayesian model comparison over the dependency graph."""

from models.localise.evidence import Evidence
from models.localise.ranking import localise

__all__ = ["Evidence", "localise"]
