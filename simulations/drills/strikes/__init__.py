"""The faults, put in force on a real mesh: each an async context that breaks something on entry and mends it on exit."""

from simulations.drills.strikes.choice import strike

__all__ = ["strike"]
