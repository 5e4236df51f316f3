"""`make demo`: a running shop breaks three times, and the mesh heals it in front of you."""

from simulations.demo.options import DemoOptions
from simulations.demo.run import run_demo

__all__ = ["DemoOptions", "run_demo"]
