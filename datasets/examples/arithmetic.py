"""Two-digit additions with worked steps: reasoning traces that a very small model learns within a
minute.

`35+82=?` is answered by the units `5+2=7`, the tens with the carry `3+8+0=11`, and the sum `117`.
"""

import hashlib
from typing import Any

NAME = "arithmetic"
VERSION = "v1"
TRAINING = 4_000
HELD_OUT = 200
_NUMBERS = range(10, 100)


def addition(a: int, b: int) -> dict[str, Any]:
    """Return the worked trace of ``a + b``; two digits each."""
    units = a % 10 + b % 10
    tens = a // 10 + b // 10 + units // 10
    steps = [f"{a % 10}+{b % 10}={units}", f"{a // 10}+{b // 10}+{units // 10}={tens}"]
    return {
        "prompt": f"{a}+{b}=?",
        "steps": [
            {"i": number, "type": "reasoning", "content": step} for number, step in enumerate(steps)
        ],
        "final_answer": str(a + b),
        "meta": {"generator": "datasets.arithmetic"},
    }


def generate(
    *, training: int = TRAINING, held_out: int = HELD_OUT, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return training and held-out traces, the same for the same arguments on every machine.

    No held-out pair is in the training part, in either order. Raise ValueError when there are not
    enough pairs.
    """
    pairs = sorted(((a, b) for a in _NUMBERS for b in _NUMBERS), key=lambda pair: _draw(seed, pair))
    asked = pairs[:held_out]
    never = {tuple(sorted(pair)) for pair in asked}
    shown = [pair for pair in pairs[held_out:] if tuple(sorted(pair)) not in never][:training]
    if len(asked) < held_out or len(shown) < training:
        raise ValueError(
            f"There are not {training} training and {held_out} held-out pairs of two-digit numbers."
        )
    return [addition(*pair) for pair in shown], [addition(*pair) for pair in asked]


def _draw(seed: int, pair: tuple[int, int]) -> bytes:
    return hashlib.sha256(f"{seed}:{pair[0]}+{pair[1]}".encode()).digest()
