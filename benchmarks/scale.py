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
import statistics
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data import beside_a_writer, run
from benchmarks.databases import ROOT, new_system, on_each_database, parser_for

ROUNDS = 11
SIZES = {"sqlite": (10_000, 100_000, 1_000_000), "postgresql": (10_000, 100_000, 1_000_000)}
WORDS_OF_A_TEXT = 80
WIDE = 100_000  # characters of a large example
EXPORT = """
    import sys
    import django
    django.setup()
    from datasets.models import Dataset
    from datasets.services import export_lines
    dataset = Dataset.objects.get(dataset_key=sys.argv[1])
    assert sum(1 for _ in export_lines(dataset)) == dataset.size
"""
ERASE = """
    import django
    django.setup()
    from datasets.erasing import erase_contents
    from datasets.models import Trace
    erase_contents([Trace.objects.filter(erased_at=None).order_by("created_at", "id")[0].pk])
"""


def main() -> int:
    parser = parser_for("benchmarks.scale", __doc__ or "")
    parser.add_argument("--sizes", type=int, nargs="+", help="examples in all, ascending")
    return on_each_database(measure, parser.parse_args())


def texts(first: int, last: int) -> Iterator[str]:
    """Texts of words of which ``w0`` is the most frequent, and a number that no other text has."""
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
        import django  # noqa: PLC0415 - with the settings of the new system

        django.setup()
        manage = [sys.executable, str(ROOT / "manage.py")]
        stored = 0
        for size in arguments.sizes or SIZES[database]:
            file = folder / "lines.jsonl"
            make_file(file, stored, size)
            importing = [*manage, "import_jsonl", str(file), "--name", "scale"]
            figures: dict[str, Any] = {"database": database, "examples": size}
            figures["imported"] = size - stored
            figures |= beside_a_writer("import", [*importing, "--version", str(size)], environment)
            figures["database MB"] = megabytes(database, folder)
            figures |= beside_a_writer("indexing", [*manage, "index_words"], environment)
            figures["database MB with the index"] = megabytes(database, folder)
            analyse()
            figures["requests, ms"] = requests(size, f"scale-{size}", stored)
            command = [sys.executable, "-c", textwrap.dedent(EXPORT), f"scale-{size}"]
            figures["export"] = run(command, environment)
            command = [sys.executable, "-c", textwrap.dedent(ERASE)]
            figures |= beside_a_writer("erasing an example", command, environment)
            stored = size
            print(json.dumps(figures, indent=1), flush=True)
        print(json.dumps({"database": database, "a page of lists, ms": wide()}, indent=1))


def analyse() -> None:
    """Do what autovacuum does within a minute after an import."""
    from django.db import connection  # noqa: PLC0415 - needs the settings

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def megabytes(database: str, folder: Path) -> int:
    from runs.backup.databases import database_bytes  # noqa: PLC0415 - needs the settings

    return round(database_bytes() / 1e6)


def requests(size: int, key: str, first: int) -> dict[str, str]:
    """The time that each kind of request takes."""
    from django.contrib.auth.models import User  # noqa: PLC0415 - needs the settings
    from django.test import Client  # noqa: PLC0415

    from datasets.models import Trace  # noqa: PLC0415
    from tunixrt.cursors import Cursor  # noqa: PLC0415

    user, _ = User.objects.get_or_create(username="reader")
    client = Client(HTTP_HOST="localhost")
    client.force_login(user)
    oldest = Trace.objects.order_by("created_at", "id")[size // 10]
    rare = f"n{first + (size - first) // 2}"
    deep = Cursor(oldest.created_at, oldest.pk).encode()
    asked = {
        "page of the list": "/traces",
        "list": "/api/traces",
        "list, 90% down by cursor": f"/api/traces?cursor={deep}",
        "list, 90% down by offset": f"/api/traces?offset={min(size * 9 // 10, 1_000_000)}",
        "a rare word": f"/api/traces?words={rare}",
        "a common word": "/api/traces?words=w0",
        "two common words": "/api/traces?words=w0 w1",
        "a common and a rare word": f"/api/traces?words=w0 {rare}",
        "a common and no word": "/api/traces?words=w0 nowhere",
        "the beginning of 11 words": "/api/traces?words=w123*",
        "the beginning of 111 words": "/api/traces?words=w12*",
        "the beginning of a rare word": f"/api/traces?words={rare[:-1]}*",
        "a common word, 500 pages down": "/api/traces?words=w0&offset=10000",
        "page of a word": f"/traces?words={rare}",
        "text (q) of a common word": "/api/traces?q=w0 ",
        "text (q) of a rare word": f"/api/traces?q={rare}",
        "an example": f"/api/traces/{oldest.pk}",
        "page of an example": f"/traces/{oldest.pk}",
        "page of a dataset": f"/datasets/{key}",
        "page of a dataset, its end": f"/datasets/{key}?from={size - first - 10}",
    }
    return {name: timed(client, path) for name, path in asked.items()}


def timed(client: Any, path: str) -> str:
    """Ask ROUNDS times, or for ten seconds; say how it is answered if that is not 200."""
    times: list[float] = []
    status = 200
    while len(times) < ROUNDS and sum(times) < 10_000:
        start = time.perf_counter()
        response = client.get(path)
        times.append(1000 * (time.perf_counter() - start))
        status = response.status_code
    said = f"{statistics.median(times):.1f} ({max(times):.1f})"
    return said if status == 200 else f"{said}, answered by {status}"


def least(client: Any, path: str) -> float:
    """The least milliseconds of processor time of a few times ROUNDS requests; the database's own
    counts where it is SQLite."""
    times = []
    for _ in range(3 * ROUNDS):
        start = time.process_time()
        assert client.get(path).status_code == 200
        times.append(1000 * (time.process_time() - start))
    return round(min(times), 1)


def wide() -> dict[str, float]:
    """The least milliseconds of a first page of small examples, and of large ones of each kind."""
    from django.contrib.auth.models import User  # noqa: PLC0415 - needs the settings
    from django.test import Client  # noqa: PLC0415

    from datasets.services import create_traces  # noqa: PLC0415

    client = Client(HTTP_HOST="localhost")
    client.force_login(User.objects.get(username="reader"))
    figures = {}
    for name, length in (("small", 400), (f"{WIDE:,} characters", WIDE)):
        text = ("word " * (length // 5)).strip()
        kinds: dict[str, dict[str, Any]] = {
            "conversations": {
                "messages": [
                    {"role": "user", "content": "Hello"},
                    {"role": "assistant", "content": text},
                ]
            },
            "traces with steps": {
                "prompt": "Hello",
                "steps": [{"i": 0, "type": "thought", "content": text}],
                "final_answer": "x",
            },
            "traces with a prompt": {"prompt": text, "final_answer": "x"},
        }
        for kind, example in kinds.items():
            for number in range(30):
                create_traces(items=[{**example, "meta": {"n": number}}], by=None)
            figures[f"{kind}, {name}: page"] = least(client, "/traces")
            figures[f"{kind}, {name}: API"] = least(client, "/api/traces?limit=25")
    return figures


if __name__ == "__main__":
    sys.exit(main())
