"""The pictures of docs/models.md: what each model catches and what it cannot, drawn by the models themselves.

`python -m simulations.judgement.pictures DIR` writes them. Everything follows from fixed seeds.
"""
