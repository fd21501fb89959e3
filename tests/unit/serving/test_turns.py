"""The loop looks around between two queries, and they keep their order."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

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


@pytest.mark.parametrize("looks", [1, 10])
def test_the_loop_looks_around_as_often_as_it_is_told(looks: int) -> None:
    seen: list[int] = []
    num_looks = 0

    def look() -> None:
        nonlocal num_looks
        num_looks += 1
        if num_looks < 100:
            asyncio.get_running_loop().call_soon(look)

    async def query(turns: Turns) -> None:
        async with turns:
            seen.append(num_looks)

    async def all_at_once() -> None:
        look()
        turns = Turns(looks)
        await asyncio.gather(*(query(turns) for _ in range(4)))

    asyncio.run(all_at_once())
    # One more, in which the next one is woken.
    assert [after - before for before, after in pairwise(seen)] == [looks + 1] * 3


def test_a_query_that_fails_lets_the_next_one_in() -> None:
    async def refuse(turns: Turns) -> None:
        async with turns:
            raise ValueError("refused")

    async def all_at_once() -> list[object]:
        turns = Turns()
        return await asyncio.gather(*(refuse(turns) for _ in range(3)), return_exceptions=True)

    assert [str(outcome) for outcome in asyncio.run(all_at_once())] == ["refused"] * 3
