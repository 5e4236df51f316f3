"""Pure mathematics and vocabulary: what a service, edge, signal, incident is; detectors and localisers.

Nothing in here performs I/O, starts a task or reads a clock: time always arrives as an argument.
"""
