"""The application under the mesh: an online shop of ten services that call each other over HTTP.

Each instance is a process of its own (`python -m simulations.shop --service catalog …`) beside its own sidecar.
`spec.py` says who calls whom and how long work takes, `service.py` runs one instance, `trouble.py` keeps the account
of which instance spoiled a request, `fault.py` takes injected faults at run time.
"""
