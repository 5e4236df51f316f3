"""Canary verdicts on simulated traffic: how often a good canary is rolled back, how soon a bad one is.

`python -m simulations.judgement.canaries [--quick]` prints the tables, ours beside the rules of two known tools.
"""
