"""Why a connection failed, in the words a person would use."""

from __future__ import annotations

import os

import aiohttp


def reason(error: Exception) -> str:
    """Return the system's words for what went wrong (`Connection refused`), or else the error's own."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return str(error) or type(error).__name__
