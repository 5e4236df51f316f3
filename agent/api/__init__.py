"""The agent's HTTP API: everything the terminal shows comes from here. Reads only, open on loopback."""

from agent.api.app import AgentApi, Backend, Status

__all__ = ["AgentApi", "Backend", "Status"]
