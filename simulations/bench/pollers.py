"""Ask sidecars until their answer changes: `python -m simulations.bench.pollers`, driven by lines on stdin.

A process of its own, one thread, bare sockets: what it spends is small, and it does not hold up the process that makes
the change. For each line `{"places": [[host, port], ...], "from": 200, "to": 503}` it prints `ready` once every place
answered with the first status, and then a list of the monotonic times at which each answered with the second.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from dataclasses import dataclass, field

from simulations.bench.rig import REQUEST

INTERVAL_S = 0.002
"""Between two requests to one place: by so much a change may be seen late."""
_PATIENCE_S = 10.0
_END = b"\r\n\r\n"


@dataclass(slots=True)
class Poll:
    """One place being asked, over one connection, one request at a time."""

    socket: socket.socket
    due: float
    buffer: bytearray = field(default_factory=bytearray)
    waiting: bool = False
    answered: bool = False
    asked: float = 0.0
    changed_at: float = 0.0

    def state(self, now: float) -> str:
        """Say where it stands, for a person."""
        place = "{}:{}".format(*self.socket.getpeername())
        return f"{place} ({f'silent for {now - self.asked:.1f} s' if self.waiting else 'answers as before'})"

    def ask(self, now: float) -> None:
        """Send the next request."""
        self.socket.sendall(REQUEST)
        self.waiting, self.asked, self.due = True, now, now + INTERVAL_S

    def take(self, old: int, new: int) -> None:
        """Read what is there. Raises RuntimeError on a status that is neither, or the end of the connection."""
        data = self.socket.recv(65536)
        now = time.monotonic()
        if not data:
            raise RuntimeError("the sidecar closed the connection")
        self.buffer += data
        head, found, body = bytes(self.buffer).partition(_END)
        if not found or len(body) < _length(head):
            return
        self.buffer.clear()
        self.waiting = False
        status = int(head.split(b" ", 2)[1])
        if status == old:
            self.answered = True
        elif status != new:
            raise RuntimeError(f"the sidecar answered {status}, wanted {old} and then {new}")
        elif self.answered:  # before, it is the change before the last that this sidecar, not asked then, still has
            self.changed_at = now


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def watch(places: list[tuple[str, int]], old: int, new: int) -> list[float]:
    """Ask every place until it answers `new`; prints `ready` when each has answered `old`.

    Raises:
        RuntimeError: another answer, or no change within ten seconds.
    """
    began = time.monotonic()
    step = INTERVAL_S / len(places)
    polls = [Poll(socket.create_connection(place), began + k * step) for k, place in enumerate(places)]
    for poll in polls:
        poll.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    told = False
    try:
        while pending := [poll for poll in polls if not poll.changed_at]:
            now = time.monotonic()
            if now > began + _PATIENCE_S:
                raise RuntimeError(
                    f"no {new} in {_PATIENCE_S:g} s from " + ", ".join(poll.state(now) for poll in pending)
                )
            for poll in pending:
                if not poll.waiting and poll.due <= now:
                    poll.ask(now)
            waiting = {poll.socket: poll for poll in pending if poll.waiting}
            next_due = min((poll.due for poll in pending if not poll.waiting), default=now + INTERVAL_S)
            for found in select.select(list(waiting), [], [], max(0.0, next_due - now))[0]:
                waiting[found].take(old, new)
            if not told and all(poll.answered for poll in polls):
                told = True
                print("ready", flush=True)
    finally:
        for poll in polls:
            poll.socket.close()
    return [poll.changed_at for poll in polls]


def main() -> None:
    """Serve until stdin closes."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        places = [(str(host), int(port)) for host, port in order["places"]]
        print(json.dumps(watch(places, int(order["from"]), int(order["to"]))), flush=True)


if __name__ == "__main__":
    main()
