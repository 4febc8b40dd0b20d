from __future__ import annotations

from runs.trainer.loop.devices import memory_in_use, release_freed_memory

MEGABYTE = 2**20


def test_what_was_freed_goes_back_to_the_system():
    # below the size that the C library gives back by itself
    pieces = [b"x" * 100_000 for _ in range(3000)]
    kept = pieces[::100]  # in between, so that nothing is free at the heap's end
    held = memory_in_use()
    del pieces
    release_freed_memory()
    assert held - memory_in_use() > 200 * MEGABYTE
    assert len(kept) == 30
