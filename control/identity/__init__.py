"""Who is who in the mesh: the built-in certificate authority and the short-lived SPIFFE leaves of the sidecars."""
