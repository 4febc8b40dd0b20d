"""Memory that large requests took is given back although errors keep it in cycles."""

import asyncio
import gc
import weakref

import pytest

from tunixrt import memory


class Body(bytearray):
    pass


def body_in_a_cycle() -> "weakref.ref[Body]":
    body = Body(1 << 20)
    try:
        raise ValueError
    except ValueError as error:
        kept = error  # its traceback has this frame, which has it  # noqa: F841
    return weakref.ref(body)


def test_what_errors_keep_is_collected_a_while_later(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "AFTER_SECONDS", 0.0)

    async def ask() -> "weakref.ref[Body]":
        found = body_in_a_cycle()
        giving = memory.GiveBack()
        giving.soon()
        giving.soon()
        while found() is not None:
            await asyncio.sleep(0.01)
        return found

    gc.disable()
    try:
        assert asyncio.run(ask())() is None
    finally:
        gc.enable()
