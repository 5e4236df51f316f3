"""Measurements of the mesh beside its limits, in one run on one machine; figures are ratios or stand beside a reference."""
