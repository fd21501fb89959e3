"""The loop looks around between two queries, and they keep their order."""

from __future__ import annotations

import asyncio

from tailrank.serving.turns import Turns


def test_answers_and_what_comes_do_not_wait_for_all_that_is_there() -> None:
    happened: list[str] = []

    async def query(turns: Turns, name: str) -> None:
        async with turns:
            happened.append(name)
            # As a worker that is done meanwhile does it: noticed, then written.
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: loop.call_soon(happened.append, f"answer to {name}"))

    async def all_at_once() -> None:
        turns = Turns()
        await asyncio.gather(*(query(turns, name) for name in "abc"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(all_at_once())
    assert [one for one in happened if len(one) == 1] == ["a", "b", "c"]
    assert happened.index("answer to a") < happened.index("c")


def test_a_query_that_fails_lets_the_next_one_in() -> None:
    async def refuse(turns: Turns) -> None:
        async with turns:
            raise ValueError("refused")

    async def all_at_once() -> list[object]:
        turns = Turns()
        return await asyncio.gather(*(refuse(turns) for _ in range(3)), return_exceptions=True)

    assert [str(outcome) for outcome in asyncio.run(all_at_once())] == ["refused"] * 3
