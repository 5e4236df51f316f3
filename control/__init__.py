"""The control plane: resources, registry, identity, xDS, overlays, API."""
