"""Fixtures for the tests of runs: a small dataset, an output root per test, a training command that
follows a script, and real servers and commands as processes of their own."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from datasets.models import Dataset
from datasets.services.datasets import create_dataset
from datasets.services.exports import write_jsonl
from datasets.services.traces import create_traces
from runs.execution import looking
from runs.execution.hosts import this_host
from runs.execution.launching import launch_pending, wait_for
from runs.keeper import program as keeper
from runs.live import stream
from runs.models import Run
from runs.runfolder import names
from runs.services.claiming import claim_run
from runs.services.evaluations import clean_evaluation, read_outcome
from runs.services.finishing import finish_run
from runs.services.preparation import run_manifest, run_preflight
from runs.services.reservations import run_folder
from runs.services.run_requests import clean_request
from runs.services.runtime import local_runtime
from runs.services.submission import submit_run
from runs.tests.item_layout import leave_items
from runs.tests.launching import HOUR, TRAINER, Hold
from runs.tests.programs import ROOT as ROOT
from runs.tests.programs import Program, end_keeper

Script = Callable[..., None]
Submit = Callable[..., Run]
Start = Callable[..., "Program"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Wait until the threads of live streams have ended, as they do after their last viewer: a
    query of theirs must not meet the next test."""
    if not stream.hub.viewers:
        for thread in list(stream.hub._threads.values()):
            thread.join()


@pytest.fixture(autouse=True)
def output_root(
    tmp_path: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The output root of this test and of the programs it starts; not made yet. No keeper outlives
    the test."""
    root = (tmp_path / "output").resolve()
    settings.TUNIX_OUTPUT_ROOT = root
    monkeypatch.setenv("TUNIX_OUTPUT_ROOT", str(root))
    yield root
    for record in root.rglob(names.KEEPER):
        end_keeper(record.parent)


@pytest.fixture(autouse=True)
def _unhurried(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in the request may take an hour: its limit is for people who wait, and a busy machine
    is slow."""
    settings.TUNIX_SYNC_TIMEOUT_SECONDS = HOUR
    monkeypatch.setenv("TUNIX_SYNC_TIMEOUT_SECONDS", str(HOUR))
    monkeypatch.setattr(looking, "WALL_SECONDS", int(HOUR))


@pytest.fixture
def make_dataset(db: None) -> Callable[..., Dataset]:
    """Stores a dataset of made-up additions; the last ``held_out`` of its ``size`` examples are
    held out."""

    def make(
        name: str = "sums",
        version: str = "v1",
        *,
        size: int = 3,
        held_out: int = 0,
        prompt: str = "{}+1=?",
    ) -> Dataset:
        items = [
            {
                "prompt": prompt.format(number),
                "steps": [{"i": 0, "type": "reasoning", "content": f"{number}+1"}],
                "final_answer": str(number + 1),
            }
            for number in range(size)
        ]
        ids = [trace.pk for trace in create_traces(items=items, by=None)]
        return create_dataset(
            name=name, version=version, trace_ids=ids, held_out_ids=ids[size - held_out :], by=None
        )

    return make


@pytest.fixture
def dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    """``sums-v1``: three examples to train on."""
    return make_dataset()


@pytest.fixture
def body(dataset: Dataset) -> dict[str, Any]:
    """The smallest request: a dry run."""
    return {"dataset_key": dataset.dataset_key, "model_id": "preset:tiny-llama"}


@pytest.fixture
def scripted(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Makes the training command a program that does what its script says (scripted_trainer.py),
    here and in started programs."""

    def use(*script: list[Any]) -> None:
        command = [sys.executable, "-I", "-S", str(TRAINER), json.dumps(script)]
        settings.TUNIX_COMMAND = command
        monkeypatch.setenv("TUNIX_COMMAND", shlex.join(command))

    return use


@pytest.fixture
def a_training_command(scripted: Script) -> None:
    """There is one, so local runs are not refused; it ends at once."""
    scripted()


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a fresh virtual environment: nothing is installed in it."""
    path = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    return str(path / "bin" / "python")


@pytest.fixture
def without_runtime(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, bare_python: str
) -> None:
    """The training interpreter is one that has no google-tunix."""
    settings.TUNIX_COMMAND = []
    settings.TUNIX_PYTHON = bare_python
    monkeypatch.setenv("TUNIX_PYTHON", bare_python)
    monkeypatch.delenv("TUNIX_COMMAND", raising=False)


@pytest.fixture
def submit(
    user: User, dataset: Dataset, scripted: Script, request: pytest.FixtureRequest
) -> Submit:
    """Stores a pending run, local unless said otherwise, and starts nothing. Where the runtime is
    not installed, a script stands in for it, since a local run is refused without one; a test of
    that asks for ``without_runtime``."""
    if not local_runtime().available and "without_runtime" not in request.fixturenames:
        scripted(["say", "hello"])

    def make(*, queued: bool = True, by: User | None = None, **fields: Any) -> Run:
        asked = {
            "dataset_key": dataset.dataset_key,
            "model_id": "preset:tiny-llama",
            "dry_run": False,
        } | fields
        run, _ = submit_run(request=clean_request(asked), by=by or user, queued=queued)
        return run

    return make


@pytest.fixture
def run_dry(api: APIClient, body: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Does a dry run through the API; the answer's body."""

    def run(**fields: Any) -> dict[str, Any]:
        response = api.post("/api/tunix/run", body | fields, format="json")
        assert response.status_code == 202, response.content
        answer: dict[str, Any] = response.json()
        return answer

    return run


@pytest.fixture
def leave_deep_folders(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes folders inside each other, more than a recursive program can walk: pytest, too, could
    not remove them."""

    def make(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=descriptor)
            inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        os.close(descriptor)

    yield make
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Hold]]:
    """``hold(moment)`` makes the next keeper that this process starts wait there for the test."""
    holds: list[Hold] = []

    def make(moment: str) -> Hold:
        holds.append(Hold(tmp_path / f"hold-{len(holds)}", moment))
        monkeypatch.setattr(keeper, "command", holds[-1].command)
        return holds[-1]

    yield make
    for each in holds:
        each.release()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Start]:
    """Starts a Python program of this project: ``program("manage.py", "attend")``; keywords are
    environment variables, but for ``within`` (see Program)."""
    started: list[Program] = []

    def start(*arguments: str, within: Sequence[str] = (), **environment: str) -> Program:
        log = tmp_path / f"program-{len(started)}.log"
        started.append(Program(list(arguments), log, within, **environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()


Evaluate = Callable[..., Run]


@pytest.fixture
def evaluate(scripted: Script, make_dataset: Callable[..., Dataset], user: User) -> Evaluate:
    """Evaluates a model on ``quiz-v1``, 40 questions, by a scripted training program, and returns
    the run at its end.

    ``scores``: by label, for one question after the other (runs/tests/item_layout.py); ``options``:
    of the script's ``answer``; everything else is part of the request.
    """

    def make(
        scores: dict[str, list[Any]] | None = None,
        *,
        options: dict[str, Any] | None = None,
        script: Sequence[list[Any]] = (),
        by: User = user,
        **fields: Any,
    ) -> Run:
        if not Dataset.objects.filter(dataset_key="quiz-v1").exists():
            make_dataset("quiz", size=40, prompt="quiz {}?")
        scripted(["answer", scores or {"exact_match": [1, 0]}, options or {}], *script)
        asked = {"dataset_key": "quiz-v1", "model_id": "preset:tiny-llama", "reuse": False}
        request = clean_evaluation(asked | fields)
        run, created = submit_run(request=request, by=by, queued=True)
        assert created
        while Run.objects.get(pk=run.pk).status == "pending":
            launch_pending()
        run.refresh_from_db()
        return wait_for(run)

    return make


@pytest.fixture
def evaluated(settings: LazySettings, make_dataset: Callable[..., Dataset], user: User) -> Evaluate:
    """The same without processes: what the training program leaves is written here, and the end is
    stored as after a real one. Much cheaper, for tests of what is done with evaluations."""

    def make(
        scores: dict[str, list[Any]] | None = None,
        *,
        options: dict[str, Any] | None = None,
        by: User = user,
        **fields: Any,
    ) -> Run:
        if not Dataset.objects.filter(dataset_key="quiz-v1").exists():
            make_dataset("quiz", size=40, prompt="quiz {}?")
        settings.TUNIX_COMMAND = [sys.executable]  # there is one, so nothing is refused
        asked = {"dataset_key": "quiz-v1", "model_id": "preset:tiny-llama", "reuse": False}
        run, created = submit_run(request=clean_evaluation(asked | fields), by=by, queued=True)
        assert created
        claim_run(run=run, host=this_host(), by="test")
        request, dataset, preflight = run_preflight(run)
        assert preflight.passed and request and dataset, preflight.problems
        folder = run_folder(run)
        folder.mkdir(parents=True)
        write_jsonl(dataset, folder / names.DATASET)
        manifest = run_manifest(run, dataset=dataset, request=request)
        (folder / names.MANIFEST).write_text(manifest, encoding="utf-8")
        leave_items(folder, scores or {"exact_match": [1, 0]}, **(options or {}))
        whole = (folder / names.RESULT).exists()
        return finish_run(
            run=run,
            status="completed" if whole else "cancelled",
            reason="the end",
            exit_code=0 if whole else 17,
            by="test",
            outcome=read_outcome(folder, config=run.config),
            summary=json.loads((folder / names.RESULT).read_text()) if whole else {},
        )

    return make
