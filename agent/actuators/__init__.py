"""How the agent reaches a mesh: one protocol, one implementation per kind of mesh."""
