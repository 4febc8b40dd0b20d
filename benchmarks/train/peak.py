"""Best rate of float32 matrix products on all cores, by JAX or PyTorch, whichever environment runs
this: prints FLOP/s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

SIZE, TIMES = 2048, 12


def main(library: str) -> None:
    run: Callable[[], Any]
    if library == "jax":
        import jax  # noqa: PLC0415 - each environment has one of the two

        a = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
        product = jax.jit(lambda x: x @ x)

        def run() -> Any:
            return product(a).block_until_ready()
    else:
        import torch  # noqa: PLC0415 - each environment has one of the two

        b = torch.randn(SIZE, SIZE)

        def run() -> Any:
            return b @ b

    run()
    best = float("inf")
    for _ in range(TIMES):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    print(2 * SIZE**3 / best)


if __name__ == "__main__":
    main(sys.argv[1])
