"""Near duplicates of 200,000 examples, beside datasketch alone.

    python -m benchmarks.near_duplicates [--examples N]

Both get the same texts, of which every tenth is another one with one word replaced (0.90 alike),
and leave out what is alike from 0.8 on: runs of three words, 128 slots. Ours is the operation of a
recipe as a clean-up runs it, with its files for two passes; the other side is the program that its
documentation shows, with everything in memory. Each runs in a process of its own; datasketch is
installed into a temporary folder. No database takes part.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = 200_000
WORDS_OF_A_TEXT = 60
PEER = "datasketch==2.0.0"
SEED = 1


def texts(count: int) -> Iterator[str]:
    """Yield texts of words that are as unequally frequent as those of a language."""
    draw = random.Random(SEED)
    words = [f"w{number}" for number in range(20_000)]
    weights = [1 / (number + 3) for number in range(len(words))]
    pool = draw.choices(words, weights, k=1_000_000)
    before: list[str] = []
    for number in range(count):
        if number % 10 == 9:
            found = list(before)
            found[draw.randrange(3, len(found) - 3)] = f"x{number}"
        else:
            start = draw.randrange(len(pool) - WORDS_OF_A_TEXT)
            found = pool[start : start + WORDS_OF_A_TEXT]
            draw.shuffle(found)
        if number % 10 == 3:
            before = found
        yield " ".join(found)


def ours(count: int) -> int:
    """Return how many examples are left out."""
    import django  # noqa: PLC0415 - in the process that is measured

    django.setup()
    from datasets.cleaning.duplicates import NearDuplicates  # noqa: PLC0415
    from datasets.cleaning.items import Item, Work  # noqa: PLC0415
    from datasets.cleaning.operation import StepReport  # noqa: PLC0415
    from datasets.examples.schema import ExampleData  # noqa: PLC0415

    items = (
        Item(ExampleData(text, [], "yes", {}, "1.0", "0" * 64, len(text)), "train", 0, number)
        for number, text in enumerate(texts(count))
    )
    report = StepReport("near_duplicates", {}, ["texts-v1"])
    operation = NearDuplicates.model_validate({"compare": "question", "keep": "first"})
    for _ in operation.apply(items, Work([]), report):
        pass
    return report.left_out


def theirs(count: int) -> int:
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found]  # noqa: PLC0415

    index = MinHashLSH(threshold=0.8, num_perm=128)
    left_out = 0
    for number, text in enumerate(texts(count)):
        words = text.split()
        signature = MinHash(num_perm=128)
        signature.update_batch(
            [" ".join(words[place : place + 3]).encode() for place in range(len(words) - 2)]
        )
        if index.query(signature):
            left_out += 1
        else:
            index.insert(number, signature)
    return left_out


SIDES = {"ours": ours, "datasketch": theirs}


def measure_here(side: str, count: int) -> None:
    start = time.perf_counter()
    left_out = SIDES[side](count)
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "left_out": left_out,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "mebibytes": used.ru_maxrss // 1024,
    }
    print(json.dumps(found))


def measure(side: str, count: int, folder: Path) -> dict[str, float]:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tunixrt.settings",
        "TUNIXRT_VAR_DIR": str(folder / "var"),
        "TUNIXRT_ENV_FILE": os.devnull,
    }
    if side == "datasketch":
        environment["PYTHONPATH"] = str(folder / "peer")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.near_duplicates"),
            *("--examples", str(count), "--here", side),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--here", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure_here(arguments.here, arguments.examples)
        return
    with tempfile.TemporaryDirectory(prefix="tunixrt-benchmark-") as name:
        folder = Path(name)
        install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder / "peer")]
        subprocess.run([*install, PEER], check=True)
        print(f"{arguments.examples:,} examples, {arguments.examples // 10:,} near duplicates")
        for side in SIDES:
            found = measure(side, arguments.examples, folder)
            print(
                f"{side:>12}: {found['left_out']:,} left out, {found['seconds']} s"
                f" ({found['cpu_seconds']} s of processor time), {found['mebibytes']:,} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
