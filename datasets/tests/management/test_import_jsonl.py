import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from datasets.services.datasets import get_dataset
from datasets.tests.factory import jsonl, make_dataset, nothing_is_stored, trace_body

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_bytes(jsonl(*(trace_body(number) for number in range(10))))
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give one of FILE and --hub."),
        (["x", "--hub", "a/b"], "Give one of FILE and --hub."),
        (
            ["x", "--revision", "main", "--held-out-files", "y"],
            "--revision, --held-out-files: only",
        ),
    ],
)
def test_one_source_is_given(arguments, said):
    with pytest.raises(CommandError, match=said):
        call_command("import_jsonl", *arguments, "--name", "a", "--version", "b")


def run_command(path, *more):
    call_command("import_jsonl", str(path), "--name", "sums", "--version", "v1", *more)


@pytest.mark.django_db
def test_what_was_stored_is_said(path, capsys):
    run_command(path, "--held-out", "2", "--description", "Sums")
    dataset = get_dataset("sums-v1")
    assert (dataset.size, dataset.held_out_size, dataset.description) == (10, 2, "Sums")
    assert dataset.provenance["file"] == "sums.jsonl"
    assert (
        capsys.readouterr().out
        == "Stored sums-v1: 10 examples (8 to train on, 2 held out, 10 with a final answer),"
        f" format trace.\n{dataset.fingerprint}\n"
    )


@pytest.mark.django_db
def test_limit_format_and_share(path):
    run_command(path, "--limit", "4", "--format", "trace", "--held-out", "0.25")
    dataset = get_dataset("sums-v1")
    assert (dataset.size, dataset.held_out_size) == (4, 1)


@pytest.mark.django_db
def test_kind_mapping_and_fields_to_ignore(tmp_path, capsys):
    path = tmp_path / "sums.csv"
    path.write_text("frage,antwort,rank\n1+1?,2,7\n")
    mapping = ("--map", "question=frage", "--map", "answer=antwort")
    run_command(path, "--kind", "prompt", *mapping, "--ignore", "rank")
    dataset = get_dataset("sums-v1")
    assert (dataset.kind, dataset.provenance["mapping"]) == (
        "prompt",
        {"question": "frage", "answer": "antwort"},
    )
    with pytest.raises(CommandError, match="must be FIELD=COLUMN, not 'prompt'"):
        run_command(path, "--map", "prompt")


@pytest.mark.django_db
def test_every_bad_line_is_listed(path, capsys):
    path.write_bytes(b"{\n" * 150)
    with pytest.raises(CommandError, match="150 lines are not valid, so nothing was stored"):
        run_command(path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 150
    assert lines[149] == "line 150: is not JSON: unexpected end of data (character 2)"
    assert nothing_is_stored()


@pytest.mark.django_db
def test_reasons_to_refuse(path, tmp_path):
    make_dataset(0)
    with pytest.raises(CommandError, match="sums-v1 exists already"):
        run_command(path)
    with pytest.raises(CommandError, match=r"Cannot read .*none\.jsonl: No such file"):
        call_command("import_jsonl", str(tmp_path / "none.jsonl"), "--name", "a", "--version", "b")
    with pytest.raises(CommandError, match=r"Cannot read .*: Is a directory"):
        call_command("import_jsonl", str(tmp_path), "--name", "a", "--version", "b")
    with pytest.raises(CommandError, match="name: May hold letters"):
        call_command("import_jsonl", str(path), "--name", "../a", "--version", "b")
    path.write_bytes(b"")
    with pytest.raises(CommandError, match="The file holds no example"):
        call_command("import_jsonl", str(path), "--name", "a", "--version", "b")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "a"],
        ["--version", "b"],
        ["--name", "a", "--version", "b", "--held-out", "many"],
        ["--name", "a", "--version", "b", "--held-out", "0.0"],
        ["--name", "a", "--version", "b", "--format", "parquet"],
        ["--name", "a", "--version", "b", "--limit", "x"],
    ],
)
def test_arguments_that_are_refused(arguments):
    with pytest.raises(CommandError, match="Error: "):
        call_command("import_jsonl", "x", *arguments)


@pytest.mark.django_db(transaction=True)
def test_as_a_program_reading_standard_input():
    def run(content, version):
        command = [
            sys.executable,
            "manage.py",
            "import_jsonl",
            "-",
            "--name",
            "piped",
            "--version",
            version,
        ]
        return subprocess.run(
            command, cwd=ROOT, input=content, capture_output=True, timeout=180, env=os.environ
        )

    good = run(jsonl(trace_body(0)), "v1")
    assert (good.returncode, good.stderr) == (0, b"")
    assert good.stdout.startswith(b"Stored piped-v1: 1 examples")
    assert "file" not in get_dataset("piped-v1").provenance
    bad = run(b"{\n", "v2")
    assert bad.returncode == 1
    assert bad.stderr.splitlines() == [
        b"line 1: is not JSON: unexpected end of data (character 2)",
        b"CommandError: 1 line is not valid, so nothing was stored.",
    ]
