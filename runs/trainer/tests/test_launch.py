"""The ``tunix`` command as a process: start, arguments, exit codes, which ``datasets`` it sees."""

import importlib.metadata
import os
import subprocess
import sys
import textwrap

import pytest

from runs.trainer import errors
from runs.trainer.launch import main
from runs.trainer.tests.helpers import LAUNCH, PATIENCE, arithmetic

ROOT = LAUNCH.parents[2]


def tunix(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-I", "-u", str(LAUNCH), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_version_is_that_of_google_tunix_and_needs_no_jax(tmp_path):
    process = tunix("--version")
    assert process.stdout == f"tunix {importlib.metadata.version('google-tunix')}\n"
    assert process.returncode == 0
    assert process.stderr == ""
    probe = (
        "import sys; from runs.trainer import launch; launch.main(['--version']); print('jax' in"
        " sys.modules)"
    )
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.append({str(ROOT)!r}); {probe}"]
    assert (
        subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[-1] == "False"
    )


def test_datasets_is_hugging_faces_also_with_pythonpath_set(tmp_path):
    """The project's own application of that name is on the path, but behind site-packages."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        textwrap.dedent(f"""
            import runpy, sys
            sys.argv = ["tunix", "--version"]
            try:
                import os
                os._exit = sys.exit
                runpy.run_path({str(LAUNCH)!r}, run_name="__main__")
            except SystemExit:
                pass
            import datasets, runs.spec.manifest
            print(datasets.load_dataset.__module__, datasets.__file__)
            """)
    )
    for environment in ({}, {"PYTHONPATH": str(ROOT)}):
        process = subprocess.run(
            [sys.executable, "-I", str(probe)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        module, file = process.stdout.splitlines()[-1].split(" ", 1)
        assert module == "datasets.load"
        assert "site-packages" in file
        assert not file.startswith(str(ROOT / "datasets"))


@pytest.mark.parametrize(
    "arguments", [[], ["train"], ["dance"], ["train", "--config", "x", "--fast"]]
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tunix" in capsys.readouterr().err


def last_line_of_errors(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_manifest_that_is_missing_or_wrong_ends_with_10(make_run, tmp_path, capsys):
    assert main(["train", "--config", str(tmp_path / "none.yaml")]) == 10
    assert last_line_of_errors(capsys).startswith(
        "tunix: manifest: none.yaml: manifest: cannot read"
    )

    run = make_run(batch_size=8)
    run.config.write_text(
        run.config.read_text().replace("batch_size: 8", "batch_size: 0\n  speed: 3")
    )
    assert run.train() == 10
    last = last_line_of_errors(capsys)
    assert "training.batch_size: must be at least 1" in last
    assert "training.speed: unknown parameter" in last


def test_a_mesh_that_does_not_fit_the_devices_ends_with_10(make_run, capsys):
    run = make_run(data_parallel=2, fsdp_parallel=3)
    assert run.train() == 10
    assert (
        "data_parallel 2 × fsdp_parallel 3 is not the number of devices, 1"
        in last_line_of_errors(capsys)
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [("preset:huge", "there is no preset 'huge'"), ("someone/some-llama", "HF_HUB_OFFLINE=1")],
)
def test_a_model_that_is_not_there_ends_with_12(make_run, capsys, model, words):
    run = make_run(model=model)
    assert run.train() == 12
    last = last_line_of_errors(capsys)
    assert last.startswith("tunix: model: ")
    assert words in last


def test_a_model_whose_tokenizer_is_missing_ends_with_12(make_run, llama, tmp_path, capsys):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / name).write_bytes((llama / name).read_bytes())
    run = make_run(model=tmp_path / "bare")
    assert run.train() == 12
    assert "there is no tokenizer" in last_line_of_errors(capsys)


def limited(run, resource, amount):
    """Train in a process that may use only so much: ``-v`` address space in kB, ``-f`` size of a
    file in blocks of 512 bytes."""
    # -B: under a limit on files Python leaves cut .pyc files behind, and whoever imports them next
    # fails.
    command = [sys.executable, "-I", "-B", "-u", str(LAUNCH), "train", "--config", "manifest.yaml"]
    return subprocess.run(
        ["sh", "-c", f'ulimit {resource} {amount}; exec "$@"', "sh", *command],
        cwd=run.folder,
        # Not the shared cache of compiled programs: a cut entry would be there for ever.
        env={
            name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_too_little_memory_ends_with_13(make_run, capsys):
    """A step that would need terabytes: the allocation itself fails, at once and cleanly."""
    run = make_run(
        examples=arithmetic(512),
        batch_size=512,
        max_seq_length=32768,
        packing=False,
        too_long="drop",
    )
    text = run.config.read_text()
    run.config.write_text(
        text.replace("packing: false", "packing: true").replace("batch_size: 512", "batch_size: 1")
    )
    process = limited(run, "-v", 6 * 2**20)
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 13, last
    assert last.startswith("tunix: memory: ")
    assert "batch_size" in last


def test_nothing_comes_behind_the_last_line():
    program = f"""
import os, sys
sys.path.append({str(ROOT)!r})
from runs.trainer.launch import print_error_and_silence_others
print("a traceback", file=sys.stderr)
print_error_and_silence_others("tunix: storage: full \\udc80")
print("its end", file=sys.stderr)
os.write(2, b"and more")
"""
    process = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert process.stderr.splitlines() == ["a traceback", "tunix: storage: full \\udc80"]
    assert process.returncode == 0


@pytest.mark.parametrize("broken", ["stdout", "stderr", "both"])
def test_the_exit_code_is_the_same_where_the_output_cannot_be_written(tmp_path, broken):
    """Output and checkpoints often share the disk that is full; 1 in place of 15 would say that the
    program is at fault."""
    command = [
        sys.executable,
        "-I",
        "-u",
        str(LAUNCH),
        "train",
        "--config",
        str(tmp_path / "missing.yaml"),
    ]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            command,
            stdout=subprocess.PIPE if broken == "stderr" else full,
            stderr=subprocess.PIPE if broken == "stdout" else full,
            check=False,
        )
    assert process.returncode == 10


def test_a_disk_that_takes_no_more_ends_with_15(make_run):
    """Files may not grow beyond 20 kB: the checkpoint cannot be written. Nothing that looks whole
    is left."""
    run = make_run(num_epochs=1)
    assert main(["validate", "--config", str(run.config)]) == 0  # the tokenised data is there
    process = limited(run, "-f", 40)
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 15, process.stderr
    assert last.startswith("tunix: storage: ")
    assert run.checkpoints() == []
    assert not (run.folder / "model").exists()
    assert not (run.folder / "result.json").exists()


def test_every_failure_has_a_code_of_its_own():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TrainerError)
    ]
    assert (
        len({kind.exit_code for kind in kinds})
        == len({kind.kind for kind in kinds})
        == len(kinds)
        == 10
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 13),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes."), 13),
        (
            ValueError(
                "RESOURCE_EXHAUSTED: Error writing: No space left on device [OS error 28: ENOSPC]"
            ),
            15,
        ),
        (OSError(28, "No space left on device"), 15),
        (PermissionError(13, "Permission denied"), 15),
        (ModuleNotFoundError("No module named 'jax'", name="jax"), 16),
        (KeyboardInterrupt(), 17),
    ],
)
def test_known_causes_behind_foreign_exceptions(error, code):
    assert errors.explain(error).exit_code == code
    wrapped = RuntimeError("something failed")
    wrapped.__cause__ = error
    assert errors.explain(wrapped).exit_code == code


def test_an_unknown_cause_stays_unknown():
    assert errors.explain(ValueError("shape mismatch")) is None
