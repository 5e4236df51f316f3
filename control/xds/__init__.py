"""What the sidecars are told: policies and instances in, Envoy resources out, over one delta ADS stream per sidecar."""
