"""Background work that lasts exactly as long as a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager


@asynccontextmanager
async def alongside(works: Mapping[str, Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run `works` (task name → coroutine) while the block runs, then cancel them.

    An error of the block, or of one of the works, ends both and is raised as itself, not inside a group: it has one reader.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in works.items()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) > 1:
            raise
        raise errors.exceptions[0] from None
