"""Run a program that dies with its parent: `python -I -S tether.py PARENT_PID PROGRAM ARGUMENTS…`.

Not imported but started, as a file, between the supervisor and Envoy. It asks the kernel to kill it when its parent dies
(PR_SET_PDEATHSIG, which `exec` keeps), looks whether that happened already, and becomes the program. A `preexec_fn` would
do the same inside a fork of the supervisor, where Python code next to other threads may dead-lock; this costs 10 ms.

It also raises the limit of open files to what the system allows: a proxy needs two per connection.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NOT_STARTED = 126  # as a shell reports a program that cannot be executed


def main(parent: int, program: str, arguments: list[str]) -> int:
    """Become `program`; returns an exit code only when that failed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write(f"cannot tie {program} to its supervisor: {os.strerror(ctypes.get_errno())}\n")
        return _NOT_STARTED
    if os.getppid() != parent:  # it died before the kernel knew
        return _NOT_STARTED
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        os.execv(program, [program, *arguments])  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"cannot execute {program}: {error.strerror}\n")
    return _NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
