"""Ending in order: SIGTERM does what Ctrl-C does, so that whatever a task began is taken back."""

from __future__ import annotations

import asyncio
import signal


def cancel_on_sigterm() -> None:
    """Let SIGTERM cancel the task that calls this."""
    task = asyncio.current_task()
    assert task is not None, "it is called from a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
