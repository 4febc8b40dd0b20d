"""Import of a large file beside what people use otherwise: ``python -m benchmarks.data``.

A file of GSM8K-like lines is imported by the command, while another process writes one row every
20 ms and measures how long each write takes. The yardstick, in the same run: Hugging Face's
``datasets`` that loads the file (without validating, hashing or storing a row), and ``json`` that
parses it. With ``--parquet``: import and export of a Parquet file beside ``pyarrow`` alone, which
reads it into Python objects and writes it from them. docs/performance.md has the figures on record.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from benchmarks.databases import ROOT, new_system, on_each_database, parser_for

FULL = ROOT / ".venv" / "bin" / "python"
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven"]
WRITER = """
    import json, sys, time
    import django
    django.setup()
    from django.db import connection, transaction
    from datasets.models import Trace
    waits = []
    print("ready", flush=True)
    import select
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        start = time.perf_counter()
        with transaction.atomic():
            content_hash = f"{time.time_ns():064d}"
            Trace.objects.create(prompt="p", final_answer="a", content_hash=content_hash)
        waits.append(time.perf_counter() - start)
    waits.sort()
    print(json.dumps({"writes": len(waits), "P50 ms": round(1000 * waits[len(waits) // 2], 1),
        "P99 ms": round(1000 * waits[int(len(waits) * 0.99)], 1),
        "longest ms": round(1000 * waits[-1], 1)}))
"""
HUGGING_FACE = """
    import sys, datasets
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("json", data_files=sys.argv[1], cache_dir=sys.argv[2])
    assert len(loaded["train"]) == int(sys.argv[3])
"""
JSON = """
    import json, sys
    with open(sys.argv[1]) as file:
        assert sum(1 for line in file if json.loads(line)) == int(sys.argv[3])
"""
PARQUET_READ = """
    import sys
    import pyarrow.parquet as parquet
    with parquet.ParquetFile(sys.argv[1]) as file:
        rows = sum(len(batch.to_pylist()) for batch in file.iter_batches(1_000))
    assert rows == int(sys.argv[3])
"""
PARQUET_WRITE = """
    import json, sys
    import pyarrow
    import pyarrow.parquet as parquet
    schema = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string())])
    with open(sys.argv[1]) as lines, parquet.ParquetWriter(sys.argv[2], schema) as file:
        batch = []
        for line in lines:
            batch.append(json.loads(line))
            if len(batch) == 1_000:
                file.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        file.write_table(pyarrow.Table.from_pylist(batch, schema))
"""
EXPORT = """
    import sys
    import django
    django.setup()
    from datasets.services.datasets import get_dataset
    from datasets.services.exports import export_parquet
    with open(sys.argv[1], "wb") as file:
        for piece in export_parquet(get_dataset("large-v1")):
            file.write(piece)
"""


def main() -> int:
    parser = parser_for("benchmarks.data", __doc__ or "")
    parser.add_argument("--lines", type=int, help="1,000,000; of Parquet 200,000")
    parser.add_argument(
        "--parquet", action="store_true", help="import and export of Parquet, beside pyarrow alone"
    )
    arguments = parser.parse_args()
    arguments.lines = arguments.lines or (200_000 if arguments.parquet else 1_000_000)
    return on_each_database(measure_parquet if arguments.parquet else measure, arguments)


def make_file(path: Path, lines: int) -> None:
    draw = random.Random(1)
    with path.open("w") as file:
        for number in range(lines):
            question = f"{' '.join(draw.choices(WORDS, k=45))} {number}?"
            answer = f"{' '.join(draw.choices(WORDS, k=50))}\n#### {number}"
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")


def measure(database: str, arguments: argparse.Namespace) -> None:
    with new_system(database, "data") as (folder, environment):
        environment |= {"HF_HUB_OFFLINE": "1"}
        manage = [sys.executable, str(ROOT / "manage.py")]
        file = folder / "lines.jsonl"
        make_file(file, arguments.lines)
        given = [str(file), str(folder / "cache"), str(arguments.lines)]
        figures: dict[str, Any] = {"database": database, "lines": arguments.lines}
        figures["file MB"] = round(file.stat().st_size / 1e6)
        importing = [*manage, "import_jsonl", str(file), "--name", "large", "--version", "v1"]
        figures |= beside_a_writer("import", importing, environment)
        indexing = [*manage, "index_words"]
        figures |= beside_a_writer("words indexed after it", indexing, environment)
        python = str(FULL) if FULL.exists() else sys.executable
        figures["json"] = run([python, "-I", "-c", textwrap.dedent(JSON), *given], environment)
        if FULL.exists():
            figures["Hugging Face datasets"] = run(
                [python, "-I", "-c", textwrap.dedent(HUGGING_FACE), *given], environment
            )
        print(json.dumps(figures, indent=1, ensure_ascii=False), flush=True)


def measure_parquet(database: str, arguments: argparse.Namespace) -> None:
    with new_system(database, "data") as (folder, environment):
        lines, file, exported = (folder / name for name in ("l.jsonl", "l.parquet", "out.parquet"))
        make_file(lines, arguments.lines)

        def program(code: str, *given: Path) -> dict[str, float]:
            command = [sys.executable, "-c", textwrap.dedent(code), *map(str, given)]
            return run([*command, str(arguments.lines)], environment)

        figures: dict[str, Any] = {"database": database, "rows": arguments.lines}
        figures["write by pyarrow"] = program(PARQUET_WRITE, lines, file)
        figures["read by pyarrow"] = program(PARQUET_READ, file, file)
        manage = [sys.executable, str(ROOT / "manage.py"), "import_jsonl", str(file)]
        figures["import"] = run([*manage, "--name", "large", "--version", "v1"], environment)
        figures["export"] = program(EXPORT, exported)
        figures["file MB"] = round(file.stat().st_size / 1e6)
        figures["exported MB"] = round(exported.stat().st_size / 1e6)
        print(json.dumps(figures, indent=1), flush=True)


def beside_a_writer(name: str, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Return what ``run`` measures of a command, and how long another process waited for its
    writes."""
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    figures = run(command, environment)
    waits = json.loads(writer.communicate("end\n")[0])
    return {name: figures, f"another writer beside {name}": waits}


def run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command to its end: seconds, processor seconds, and the most memory that was its own
    and that of its children (without pages of files) in MB."""
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    most = 0
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        most = max(most, own_memory(process.pid))
        time.sleep(0.1)
    _, status, usage = ended
    assert os.waitstatus_to_exitcode(status) == 0, command
    process.returncode = 0
    return {
        "seconds": round(time.monotonic() - start, 1),
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "MB": round(most / 1000),
    }


def own_memory(pid: int) -> int:
    """Return the kB that a process and its children do not share with a file."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        with open(f"/proc/{pid}/status") as file:
            own = sum(
                int(line.split()[1]) for line in file if line.startswith(("RssAnon", "RssShmem"))
            )
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return own + sum(own_memory(int(child)) for child in children)


if __name__ == "__main__":
    sys.exit(main())
