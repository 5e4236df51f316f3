"""Objectives: counts good and valid requests, keeps them over restarts, judges error budgets, and warns of burning ones.

A second opinion beside the detectors: an objective never acts. It holds back what would be a risk (canary steps, playbooks
whose guard asks for budget left), and calls a person once when a budget burns.
"""
