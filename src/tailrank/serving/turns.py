"""One query at a time through the event loop, which looks around between two of them.

To read a query and look up its features takes the loop longer than all else. If it did so with all
that have come before it looked again, answers that are ready, and what comes meanwhile, would wait
for all of them, several times over: once to be noticed, once to be written down, once to be sent.
"""

from __future__ import annotations

import asyncio


class Turns:
    """Queries wait here in the order in which they came; `async with` has no `await` inside.

    Args:
        looks: how often the loop looks around between two of them.
    """

    def __init__(self, looks: int = 1) -> None:
        self._lock, self._looks = asyncio.Lock(), looks

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *raised: object) -> None:
        # Not now: the loop first looks what is ready and what has come.
        self._look(self._looks)

    def _look(self, looks: int) -> None:
        if looks:
            asyncio.get_running_loop().call_soon(self._look, looks - 1)
        else:
            self._lock.release()
