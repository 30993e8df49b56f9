import asyncio
import threading

import pytest

from driftline.schemas.threads import abandonable


async def test_it_answers_as_the_call_does() -> None:
    assert await abandonable(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await abandonable(divmod, 7, 0)


def test_nobody_waits_for_a_call_that_hangs() -> None:
    answered, hung, returned = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        hung.set()
        answered.wait(20)
        returned.set()

    async def stopped() -> None:
        work = asyncio.create_task(abandonable(hang))
        await asyncio.to_thread(hung.wait)
        work.cancel()
        await asyncio.wait({work})

    asyncio.run(stopped())
    assert not returned.is_set()
    answered.set()
    assert returned.wait(20)
