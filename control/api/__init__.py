"""The control API: HTTP and JSON over the control plane, for people, agents and sidecars."""
