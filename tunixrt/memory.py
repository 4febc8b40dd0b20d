"""Give freed memory back to the system, which the C library keeps in pieces for later."""

import asyncio
import ctypes
from collections.abc import Callable

AFTER_SECONDS = 10.0

_malloc_trim: Callable[[int], int] | None = getattr(
    ctypes.CDLL(None), "malloc_trim", None
)  # glibc's own; None: another C library


class GiveBack:
    """``soon()`` gives freed memory back a while later, however often it is asked meanwhile. Used on one event loop."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        if _malloc_trim is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AFTER_SECONDS, self._begin)

    def _begin(self) -> None:
        self._timer = None
        assert _malloc_trim is not None
        asyncio.get_running_loop().run_in_executor(None, _malloc_trim, 0)
