"""Ids in the order of time (UUID version 7, RFC 9562)."""

import secrets
import time
from collections.abc import Iterator

_PER_MILLISECOND = 4096


def ordered_ids(count: int) -> Iterator[int]:
    """Yield ``count`` ids as 128-bit numbers, each greater than the one before.

    New rows stand side by side in the index then: random ids make an import into SQLite take twice
    as much processor time (docs/performance.md).
    """
    start = time.time_ns() // 1_000_000
    drawn = secrets.token_bytes(8 * count)
    for number in range(count):
        milliseconds, counter = divmod(number, _PER_MILLISECOND)
        random = int.from_bytes(drawn[8 * number : 8 * number + 8]) >> 2
        yield (start + milliseconds) << 80 | 7 << 76 | counter << 64 | 2 << 62 | random
