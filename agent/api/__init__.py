"""The agent's HTTP API: everything the terminal shows comes from here. Reads are open on loopback; orders need the operator's token."""

from agent.api.app import AgentApi, Backend, Status

__all__ = ["AgentApi", "Backend", "Status"]
