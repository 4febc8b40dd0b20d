"""Ours, google-tunix's sampler, or the limits of the machine: run by .venv's Python with -I.

    side_jax.py ours|sampler|limits SETTINGS.json

The model has LoRA matrices of rank 16, as after a training. ``ours`` merges them within the time
that is measured. The sampler is used as exact match used it: constant shapes, compiled before,
padding hidden by an id that no prompt has.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoding.clock import report, timed
from runs.trainer.modeling import LoadedModel, apply_lora, load_model

RANK = 16


def load(settings: dict[str, Any]) -> LoadedModel:
    loaded = load_model(
        model_id="benchmark",
        path=Path(settings["model"]),
        revision=None,
        dtype=jnp.float32,
        mesh=None,
        seed=0,
    )
    if settings["lora"]:
        apply_lora(loaded, rank=RANK, alpha=None, targets=None, seed=0)
    return loaded


def ours(settings: dict[str, Any]) -> None:
    from runs.trainer.evaluation.generate import Generator  # noqa: PLC0415 - of this side only
    from runs.trainer.modeling.decoding import decoding_weights  # noqa: PLC0415

    loaded, prompts = load(settings), settings["prompts"]
    generator = Generator(
        loaded.architecture,
        stop_ids=(),
        rows=settings["rows"],
        prompt_length=max(map(len, prompts)),
        max_tokens=settings["new"],
    )

    def run() -> list[list[int]]:
        weights = decoding_weights(loaded.module, loaded.architecture)
        return [output.tokens for [output] in generator.generate(weights, prompts)]

    _, warm = timed(run)
    report(*timed(run), warm)


def sampler(settings: dict[str, Any]) -> None:
    from tunix.generate.sampler import CacheConfig, Sampler  # noqa: PLC0415 - of this side only

    class Ids:
        def encode(self, text: Any) -> list[int]:
            return list(text)

        def decode(self, ids: Any) -> str:
            return " ".join(map(str, ids))

        def bos_id(self) -> None:
            return None

        def eos_id(self) -> int:
            return -2  # never generated

        def pad_id(self) -> int:
            return -1

    loaded, prompts, rows = load(settings), settings["prompts"], settings["rows"]
    length = -(-max(map(len, prompts)) // 16) * 16
    config: Any = loaded.model_config
    cache = CacheConfig(
        cache_size=length + settings["new"],
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
    made = Sampler(loaded.module, Ids(), cache)  # type: ignore[arg-type]

    def run(new: int = settings["new"]) -> list[list[int]]:
        outputs: list[list[int]] = []
        for start in range(0, len(prompts), rows):
            answer = made(
                [tuple(prompt) for prompt in prompts[start : start + rows]],  # type: ignore[misc]
                max_generation_steps=new,
                max_prompt_length=length,
                eos_tokens=[-2],
            )
            outputs += [[int(token) for token in tokens] for tokens in answer.tokens]
        return outputs

    _, warm = timed(lambda: run(2))
    report(*timed(run), warm)


def limits(settings: dict[str, Any]) -> None:
    """Measure the best rate of matrix products and of copying, a second and a second of a
    processor."""
    cores = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(cores)
    square = jax.random.normal(jax.random.key(0), (2048, 2048))
    product = jax.jit(lambda x: x @ x)
    # numpy into memory that is there already; a new array would measure the kernel's pages
    pairs = [(np.ones(2**25, np.float32), np.ones(2**25, np.float32)) for _ in range(cores)]
    facts: dict[str, float] = {}
    for name, call, work in (
        ("flops", lambda: product(square).block_until_ready(), 2 * 2048**3),
        ("bytes", lambda: list(pool.map(lambda p: np.copyto(*p), pairs)), 2 * cores * 2**27),
    ):
        call()
        took = [timed(call)[1] for _ in range(12)]
        facts[f"{name}_a_second"] = work / min(t["seconds"] for t in took)
        facts[f"{name}_a_processor_second"] = work / min(t["processor_seconds"] for t in took)
    print(json.dumps(facts))


if __name__ == "__main__":
    {"ours": ours, "sampler": sampler, "limits": limits}[sys.argv[1]](
        json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    )
