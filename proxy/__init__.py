"""Everything about one sidecar: Envoy's bootstrap, its process, draining."""
