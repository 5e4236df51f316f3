"""Is the simulator like the real mesh? The same fault in both, under the same agent, compared curve by curve.

`twin` is the shop as a simulated mesh, `curves` what is compared and how, `pairs` plays both sides; `python -m simulations.likeness`.
"""
