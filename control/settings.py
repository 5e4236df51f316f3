"""What an operator may set about the control plane; one flat frozen record, filled by `fibrin/settings.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control.identity.leaves import SHORTEST_LIFE_S
from models.errors import InvalidInput, Problem

_SOCKET_PATH_BYTES: Final = 107
_PORTS: Final = 65536


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control plane's settings. All times in seconds, all shares 0–1.

    `state_dir` (made with mode 0700) holds the database, the tokens, the CA and the sockets.
    """

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 15080  # 0 lets the system choose; the choice stands in control.json
    xds_socket: Path | None = None  # default: <state_dir>/xds.sock

    leaf_lifetime_s: float = 3600.0  # certificates of sidecars, at least 5; renewed at half of it, give or take a tenth
    max_connection_s: float = (
        3600.0  # connections between sidecars older than this are made anew (and so with a new leaf)
    )

    lost_after_s: float = 5.0  # silence after which an instance counts as lost (heartbeats come every second)
    grace_s: float = 10.0  # how long after a start remembered instances may take to be heard again
    forget_after_s: float = 600.0  # a lost instance is forgotten this long after its last heartbeat
    lost_share: float = 0.5  # more than this share lost at once: suspect ourselves, keep them

    lease_max_s: float = 3600.0  # longest lease an agent may ask for
    person_lease_max_s: float = 7 * 24 * 3600.0  # longest lease a person may ask for
    floor: float = 0.5  # share of a service's healthy instances that ejections must leave

    keep_changes: int = 10_000  # change events kept, in memory and on disk
    sweep_s: float = 0.1  # how often leases and heartbeats are looked at
    shutdown_s: float = 5.0  # an ordered stop takes at most this long

    @property
    def socket(self) -> Path:
        """Return where sidecars fetch their configuration."""
        return self.xds_socket or self.state_dir / "xds.sock"

    def check(self) -> None:
        """Raise InvalidInput naming every setting that cannot work."""
        problems = [
            Problem(f"must be above 0, found {value}", field=f"control.{name}")
            for name in (
                "leaf_lifetime_s",
                "max_connection_s",
                "lost_after_s",
                "grace_s",
                "forget_after_s",
                "lease_max_s",
                "person_lease_max_s",
                "keep_changes",
                "sweep_s",
                "shutdown_s",
            )
            if (value := getattr(self, name)) <= 0
        ]
        if 0 < self.leaf_lifetime_s < SHORTEST_LIFE_S:
            text = f"must be at least {SHORTEST_LIFE_S:g}, found {self.leaf_lifetime_s}"
            problems.append(Problem(text, field="control.leaf_lifetime_s", hint="leaves are renewed at half of it"))
        problems += [
            Problem(f"must lie between 0 and 1, found {value}", field=f"control.{name}")
            for name in ("lost_share", "floor")
            if not 0 < (value := getattr(self, name)) <= 1
        ]
        if not 0 <= self.port < _PORTS:
            problems.append(Problem(f"is no port: {self.port}", field="control.port"))
        if (length := len(bytes(self.socket))) > _SOCKET_PATH_BYTES:
            message = f"a Unix socket path may have {_SOCKET_PATH_BYTES} bytes, {self.socket} has {length}"
            problems.append(Problem(message, field="control.xds_socket", hint="choose a shorter state directory"))
        if problems:
            raise InvalidInput(str(problems[0]), hint="correct the settings named", problems=tuple(problems))
