"""Lists, searches, pages and exports as examples become many: ``python -m benchmarks.scale``.

Examples of 80 words, as unequally frequent as those of a language, are imported until there are as
many as each of ``--sizes``, by the commands of the project. After each step, requests are made of
Django in this process, by WSGI without a server: all middleware, no network. The figure is the
median of ROUNDS requests in milliseconds, in brackets the longest. The export of the dataset that
was imported last is read in a process of its own. docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django

from benchmarks.data import beside_a_writer, run
from benchmarks.databases import ROOT, new_system, on_each_database, parser_for

SIZES = {"sqlite": (10_000, 100_000, 1_000_000), "postgresql": (10_000, 100_000, 1_000_000)}
WORDS_OF_A_TEXT = 80
EXPORT = """
    import sys
    import django
    django.setup()
    from datasets.models import Dataset
    from datasets.services.exports import export_lines
    dataset = Dataset.objects.get(dataset_key=sys.argv[1])
    assert sum(1 for _ in export_lines(dataset)) == dataset.size
"""
ERASE = """
    import django
    django.setup()
    from datasets.services.erasing import erase_contents
    from datasets.models import Trace
    erase_contents([Trace.objects.filter(erased_at=None).order_by("created_at", "id")[0].pk])
"""


def main() -> int:
    parser = parser_for("benchmarks.scale", __doc__ or "")
    parser.add_argument("--sizes", type=int, nargs="+", help="examples in all, ascending")
    return on_each_database(measure, parser.parse_args())


def texts(first: int, last: int) -> Iterator[str]:
    """Yield texts of words of which ``w0`` is the most frequent, and a number that no other text
    has."""
    draw = random.Random(first)
    words = [f"w{number}" for number in range(20_000)]
    weights = [1 / (number + 3) for number in range(len(words))]
    pool = draw.choices(words, weights, k=1_000_000)
    for number in range(first, last):
        start = draw.randrange(len(pool) - WORDS_OF_A_TEXT)
        yield f"{' '.join(pool[start : start + WORDS_OF_A_TEXT])} n{number}"


def make_file(path: Path, first: int, last: int) -> None:
    with path.open("w") as file:
        for text in texts(first, last):
            question, answer = text[: len(text) // 2], text[len(text) // 2 :]
            file.write(json.dumps({"prompt": question, "final_answer": answer}) + "\n")


def measure(database: str, arguments: argparse.Namespace) -> None:
    with new_system(database, "scale") as (folder, environment):
        environment |= {"HF_HUB_OFFLINE": "1"}
        os.environ |= environment
        django.setup()
        from benchmarks import scale_requests as asked  # noqa: PLC0415 - models need the settings

        manage = [sys.executable, str(ROOT / "manage.py")]
        stored = 0
        for size in arguments.sizes or SIZES[database]:
            file = folder / "lines.jsonl"
            make_file(file, stored, size)
            importing = [*manage, "import_jsonl", str(file), "--name", "scale"]
            figures: dict[str, Any] = {"database": database, "examples": size}
            figures["imported"] = size - stored
            figures |= beside_a_writer("import", [*importing, "--version", str(size)], environment)
            figures["database MB"] = asked.megabytes()
            figures |= beside_a_writer("indexing", [*manage, "index_words"], environment)
            figures["database MB with the index"] = asked.megabytes()
            asked.analyse()
            figures["requests, ms"] = asked.requests(size, f"scale-{size}", stored)
            command = [sys.executable, "-c", textwrap.dedent(EXPORT), f"scale-{size}"]
            figures["export"] = run(command, environment)
            command = [sys.executable, "-c", textwrap.dedent(ERASE)]
            figures |= beside_a_writer("erasing an example", command, environment)
            stored = size
            print(json.dumps(figures, indent=1), flush=True)
        print(json.dumps({"database": database, "a page of lists, ms": asked.wide()}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
