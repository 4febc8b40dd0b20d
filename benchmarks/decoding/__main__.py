"""``python -m benchmarks.decoding MODEL=…``: output tokens a second of ours, google-tunix's sampler
and ``transformers.generate``, in turns (``make bench-eval``).

Every measurement is a process of its own, which first generates once to compile. Then the time of
all prompts is taken, reading them included. No output ends early, so all sides generate the same
number of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.train.__main__ import HUB_DATA, HUB_MODEL, run_json, say, versions
from runs.spec.architectures import Architecture, read_architecture, tensors

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FULL = ROOT / ".venv" / "bin" / "python"
SIDES = ("ours", "sampler", "transformers")
GIB = 2**30


def main() -> int:
    options = read_options()
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    work = options.out.with_suffix("")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    inputs = run_json(
        [FULL, "-I", HERE / "inputs.py", options.model, options.data, options.prompts]
    )
    settings = {**inputs, "rows": options.rows, "new": options.new, "lora": not options.no_lora}
    file = work / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "cache")
    architecture = read_architecture(
        json.loads((Path(inputs["model"]) / "config.json").read_text(encoding="utf-8"))
    )
    facts = {
        "load_before": round(os.getloadavg()[0], 2),
        "machine": machine(options.torch),
        "rows": options.rows,
        "new": options.new,
        "prompt_tokens": sum(map(len, inputs["prompts"])),
        "needed": needed(architecture, inputs["prompts"], new=options.new, rows=options.rows),
    }
    figures: dict[str, Any] = {}
    limits: list[dict[str, float]] = []
    trials: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for number in range(1, options.rounds + 1):
        limits.append(run_json([FULL, "-I", HERE / "side_jax.py", "limits", file]))
        for side in options.sides:
            trial = run_side(side, file, options.torch)
            trials[side].append(trial)
            tokens = sum(map(len, trial["outputs"]))
            say(
                f"round {number}: {side}: {tokens / trial['seconds']:.1f} tokens/s,"
                f" {tokens / trial['processor_seconds']:.1f} a processor second; first call"
                f" {trial['first_seconds']:.0f} s"
            )
        figures = {
            **facts,
            "limits": limits,
            "sides": {side: summary(each) for side, each in trials.items()},
            "same_tokens": same_tokens(trials),
        }
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures))
    say(f"All figures: {options.out}")
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-eval", description=__doc__.splitlines()[0])
    environment = os.environ.get
    parser.add_argument("--model", default=environment("MODEL") or HUB_MODEL)
    parser.add_argument("--data", default=environment("DATA") or HUB_DATA)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--new", type=int, default=128, help="tokens of an output")
    parser.add_argument(
        "--cores",
        type=int,
        help="of each side. With one, threads that wait for each other on a machine that others use"
        " as well cost no side anything",
    )
    parser.add_argument("--no-lora", action="store_true", help="without LoRA matrices to merge")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument(
        "--torch",
        type=Path,
        default=ROOT / ".venv-parity" / "bin" / "python",
        help="a Python with transformers and PyTorch",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-eval.json")
    return parser.parse_args()


def run_side(side: str, settings: Path, torch: Path) -> dict[str, Any]:
    if side == "transformers":
        command = [torch, "-I", HERE / "side_transformers.py", settings]
    else:
        command = [FULL, "-I", HERE / "side_jax.py", side, settings]
    trial: dict[str, Any] = run_json(command)
    return trial


def machine(torch: Path) -> dict[str, Any]:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            **versions(FULL, "google-tunix", "jax"),
            **versions(torch, "torch", "transformers"),
        },
    }


def needed(a: Architecture, prompts: list[list[int]], *, new: int, rows: int) -> dict[str, float]:
    """Return the operations and bytes that no program can do without.

    A matrix takes 2 operations an entry and token; logits are needed for outputs alone. Each step
    reads every matrix, and the keys and values of its rows.
    """
    tokens, answers = sum(map(len, prompts)), new * len(prompts)
    layers = sum(t.size for t in tensors(a) if t.projection)
    pairs = sum(sum(range(len(p) + new)) for p in prompts)
    flops = 2 * layers * (tokens + answers) + 2 * a.vocab * a.hidden * answers
    flops += 4 * a.layers * a.heads * a.head_dim * pairs
    cached = sum(sum(range(len(p), len(p) + new)) for p in prompts)
    read = (layers + a.vocab * a.hidden) * answers / rows
    read += 2 * a.layers * a.kv_heads * a.head_dim * cached
    return {"flops": float(flops), "bytes": 4.0 * read}


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = [sum(map(len, trial["outputs"])) for trial in trials]
    by = {
        name: [count / trial[name] for count, trial in zip(tokens, trials, strict=True)]
        for name in ("seconds", "processor_seconds")
    }
    return {
        "tokens": tokens[0],
        "tokens_a_second": median(by["seconds"]),
        "tokens_a_second_each": by["seconds"],
        "tokens_a_processor_second": median(by["processor_seconds"]),
        "tokens_a_processor_second_each": by["processor_seconds"],
        "first_seconds": [trial["first_seconds"] for trial in trials],
        "peak_bytes": median(trial["peak_bytes"] for trial in trials),
    }


def same_tokens(trials: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return how much of ours is the same as the outputs of the others, up to the first
    difference."""
    if not trials.get("ours"):
        return {}
    ours = trials["ours"][0]["outputs"]
    shares = {}
    for side, each in trials.items():
        same = 0
        for mine, other in zip(ours, each[0]["outputs"], strict=True):
            pairs = [a == b for a, b in zip(mine, other, strict=False)]
            same += pairs.index(False) if False in pairs else len(pairs)
        shares[side] = same / sum(map(len, ours))
    return shares


def table(figures: dict[str, Any]) -> str:
    """Return a Markdown table: a row for each side."""
    sides, need = figures["sides"], figures["needed"]
    best = {key: median(each[key] for each in figures["limits"]) for key in figures["limits"][0]}
    lines = [
        (
            "| | tokens/s | by round | ours is | tokens a processor second | ours is | share of"
            " the matrix limit | of the bandwidth limit | peak memory | same as ours |"
        ),
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for side, f in sides.items():
        wall, cpu = f["tokens_a_second"], f["tokens_a_processor_second"]
        seconds = f["tokens"] / cpu
        rounds = " / ".join(f"{each:.1f}" for each in f["tokens_a_second_each"])
        faster, cheaper = (
            f"{sides['ours'][key] / f[key]:.2f} ×" if "ours" in sides else "–"
            for key in ("tokens_a_second", "tokens_a_processor_second")
        )
        shares = (
            need[kind] / seconds / best[f"{kind}_a_processor_second"] for kind in ("flops", "bytes")
        )
        lines.append(
            f"| {side} | {wall:.1f} | {rounds} | {faster} | {cpu:.1f} | {cheaper}"
            f" | {' | '.join(f'{share:.0%}' for share in shares)}"
            f" | {f['peak_bytes'] / GIB:.2f} GiB"
            f" | {figures['same_tokens'].get(side, 0):.1%} |"
        )
    lines += [
        "",
        (
            f"{figures['machine']['cores']} cores, {figures['machine']['processor']}; load before:"
            f" {figures['load_before']}. Matrix products {best['flops_a_second'] / 1e9:.0f} GFLOP/s"
            f" ({best['flops_a_processor_second'] / 1e9:.0f} a processor second), copies"
            f" {best['bytes_a_second'] / 1e9:.1f} GB/s"
            f" ({best['bytes_a_processor_second'] / 1e9:.1f}). Shares are of processor seconds."
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
