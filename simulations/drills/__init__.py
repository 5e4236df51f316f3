"""Chaos drills: break a real mesh on purpose, watch it heal, and hold what was seen to what was promised.

`schema` and `injections` are the language, `loading` reads it, `runner` plays one drill on a mesh it knows only as a port
(`port`), `real` is that port on the demo's mesh, `strikes` are the faults, `verdict` judges, `report` tells.
"""
