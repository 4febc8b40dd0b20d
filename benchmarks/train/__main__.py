"""``python -m benchmarks.train MODEL=…``: run all sides in turns, print a table, keep the figures
(``make bench-train``).

Every measurement is a process of its own; the sides take turns (A B C A B C …), so that a machine
that slows down slows all. The first round of a side starts with an empty compilation cache, the
others find it filled.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.train.figures import needed_flops, summary, table
from benchmarks.train.watch import Trial, watch
from runs.spec.kinds import SFT
from runs.spec.manifest import build_manifest, dump_manifest
from runs.spec.parameters import LORA_TARGETS

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FULL = ROOT / ".venv" / "bin" / "python"
TORCH = ROOT / ".venv-bench" / "bin" / "python"
HUB_MODEL, HUB_DATA = "HuggingFaceTB/SmolLM2-135M-Instruct", "openai/gsm8k"
RANK, RATE, EXAMPLES = 16, 2e-4, 600
PADDED = 2048  # the obvious pipeline's max_seq_length
SIDES = ("ours", "trl", "obvious")
# Steps of each side and round: those that warm up, those that count.
STEPS = {"ours": (2, 16), "trl": (2, 8), "obvious": (1, 2)}
QUICK = {"ours": (2, 4), "trl": (1, 3), "obvious": (1, 1)}


def main() -> int:
    options = read_options()
    work = ROOT / "build" / "bench-train"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    steps = QUICK if options.quick else STEPS
    inputs = run_json(
        [FULL, "-I", HERE / "inputs.py", options.model, options.data, str(EXAMPLES), work]
    )
    load = os.getloadavg()[0]
    peaks: list[dict[str, float]] = []
    trials: dict[str, list[Trial]] = {side: [] for side in options.sides}
    for number in range(1 if options.quick else options.rounds):
        peaks.append({name: matrix_peak(name) for name in ("jax", "torch")})
        for side in options.sides:
            say(f"round {number + 1}: {side} …")
            folder = work / f"{side}-{number + 1}"
            folder.mkdir()
            trial = run_side(side, folder, inputs["model"], work, steps[side], options)
            trials[side].append(trial)
            say(f"round {number + 1}: {trial.sentence(steps[side][0])}")
    config = json.loads((Path(inputs["model"]) / "config.json").read_text(encoding="utf-8"))
    needed = needed_flops(config, inputs["lengths"], inputs["answer_tokens"], rank=RANK)
    figures = {
        "machine": machine(),
        "load_before": round(load, 2),
        "model": Path(inputs["model"]).name,
        "batch_size": options.batch_size,
        "max_seq_length": options.length,
        "steps": steps,
        "peak_flops": peaks,
        "flops_a_token": needed,
        "answer_share": inputs["answer_tokens"] / sum(inputs["lengths"]),
        "sides": {
            side: summary(
                measured,
                warm=steps[side][0],
                # One padded example a step: what it carries is the mean over all examples, not
                # those that came.
                tokens_a_step=(
                    sum(inputs["lengths"]) / len(inputs["lengths"]) if side == "obvious" else None
                ),
            )
            for side, measured in trials.items()
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures))
    say(f"All figures: {options.out}")
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-train", description=__doc__.splitlines()[0])
    environment = os.environ.get
    parser.add_argument(
        "--model",
        default=environment("MODEL") or HUB_MODEL,
        help="a Hugging Face folder of a Llama, or a hub id",
    )
    parser.add_argument(
        "--data",
        default=environment("DATA") or HUB_DATA,
        help="a folder with GSM8K's train.jsonl, or a hub id",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of few steps: whether it works, not figures to keep",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sides", nargs="+", choices=(*SIDES, "trl-checkpointing", "trl-eager"), default=SIDES
    )
    parser.add_argument(
        "--batch-size", type=int, default=2, help="packed rows a step, ours and trl"
    )
    parser.add_argument(
        "--length", type=int, default=512, help="tokens of a packed row, ours and trl"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-train.json")
    return parser.parse_args()


def run_side(
    side: str,
    folder: Path,
    model: str,
    work: Path,
    steps: tuple[int, int],
    options: argparse.Namespace,
) -> Trial:
    """Run one process of one side. Raise RuntimeError with the end of its output if it fails."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))
    }
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(work / f"cache-{side}")}
    if side == "ours":
        write_manifest(folder, model, work, sum(steps), options)
        command = [
            FULL,
            "-I",
            "-u",
            ROOT / "runs/trainer/launch.py",
            "train",
            "--config",
            "manifest.yaml",
        ]
        return watch(side, command, folder, environment, folder / "metrics.jsonl")
    settings = {
        "model": model,
        "dataset": str(work / "dataset.jsonl"),
        "folder": str(folder),
        "steps": str(folder / "steps.jsonl"),
        "max_steps": sum(steps),
        "batch_size": options.batch_size,
        "max_seq_length": PADDED if side == "obvious" else options.length,
        "learning_rate": RATE,
        "lora_rank": RANK,
        "lora_targets": list(LORA_TARGETS),
        "gradient_checkpointing": side == "trl-checkpointing",
        "attention": "eager" if side == "trl-eager" else "sdpa",
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    python, script = (FULL, "side_obvious.py") if side == "obvious" else (TORCH, "side_trl.py")
    return watch(
        side,
        [python, "-I", "-u", HERE / script, folder / "settings.json"],
        folder,
        environment,
        folder / "steps.jsonl",
    )


def write_manifest(
    folder: Path, model: str, work: Path, steps: int, options: argparse.Namespace
) -> None:
    shutil.copy(work / "dataset.jsonl", folder / "dataset.jsonl")
    manifest = build_manifest(
        run_id="bench",
        kind=SFT,
        dataset={"key": "gsm8k", "path": "dataset.jsonl", "format": "tunix_sft"},
        model={"id": Path(model).name, "path": model, "revision": None},
        training={
            "learning_rate": RATE,
            "batch_size": options.batch_size,
            "max_seq_length": options.length,
            "packing": True,
            "lora_rank": RANK,
            "dtype": "float32",
            "max_steps": steps,
            "exact_match_examples": 0,
            "checkpoint_every_minutes": None,
        },
    )
    (folder / "manifest.yaml").write_text(dump_manifest(manifest), encoding="utf-8")


def matrix_peak(library: str) -> float:
    python = FULL if library == "jax" else TORCH
    return float(
        subprocess.run(
            [python, "-I", HERE / "peak.py", library], check=True, capture_output=True, text=True
        ).stdout
    )


def run_json(command: list[Any]) -> Any:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench-train: {command[2]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) * 1024
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "python": platform.python_version(),
        "versions": {
            **versions(FULL, "google-tunix", "jax", "flax", "qwix"),
            **versions(TORCH, "torch", "trl", "peft", "transformers"),
        },
    }


def versions(python: Path, *packages: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in"
        " sys.argv[1:]}))"
    )
    return run_json([python, "-I", "-c", code, *packages])


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
