"""Long proofs on real processes, behind `make soak`: `python -m simulations.soak.kills` and `.overlap`."""
