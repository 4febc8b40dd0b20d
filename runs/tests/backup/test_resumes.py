"""With google-tunix: the system is backed up while it trains and then destroyed; in a restored one
the training goes on."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.conf import LazySettings
from django.db import connection

from datasets.models import Dataset
from runs.execution.launching import launch_pending
from runs.runfolder import names
from runs.runfolder.checkpoints import complete_steps
from runs.services.reservations import run_folder
from runs.tests.conftest import Start, Submit
from runs.tests.launching import wait_for
from runs.tests.programs import end_keeper
from tunixrt.tests.plugin import SERVER_URL
from tunixrt.tests.postgres import client_programs

pytestmark = [pytest.mark.tunix, pytest.mark.django_db(transaction=True)]

# What somebody does in the restored system, and its attendant.
GO_ON = """
import json, time
from runs.execution.attending import attend
from runs.execution.launching import launch_pending
from runs.models import Run
from runs.services.reservations import run_folder
from runs.services.retrying import retry_run
run = Run.objects.get()
retry = retry_run(run=run, by=run.owner)
while not retry.is_terminal:
    launch_pending()
    attend()
    time.sleep(0.05)
    retry.refresh_from_db()
folder = run_folder(retry)
lines = (folder / "metrics.jsonl").read_text().splitlines() if folder.exists() else []
values = map(json.loads, lines)
steps = sorted({line["step"] for line in values if "loss" in line.get("values", {})})
was, now = [run.status, run.message], [retry.status, retry.message]
print(json.dumps({"was": was, "is": now, "steps": steps}))
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables of another system of the same kind, with nothing in it."""
    var = tmp_path / "another"
    variables = {"TUNIXRT_VAR_DIR": str(var), "TUNIX_OUTPUT_ROOT": str(var / "output")}
    if connection.vendor == "sqlite":
        yield variables
    else:
        server, name = os.environ[SERVER_URL], f"tunixrt_restored_{os.getpid()}"
        with psycopg.connect(server, autocommit=True) as administrator:
            administrator.execute(f"CREATE DATABASE {name}")
            yield variables | {
                "DATABASE_URL": urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
            }
            administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    for record in var.rglob(names.KEEPER):
        end_keeper(record.parent)


def test_a_training_goes_on_from_its_checkpoint_in_a_restored_system(
    make_dataset: Callable[..., Dataset],
    submit: Submit,
    program: Start,
    elsewhere: dict[str, str],
    settings: LazySettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if programs := client_programs():
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    # 1. A training, executing: it has saved step 2 and is about to save step 4.
    hold = tmp_path / "hold"
    hold.mkdir()
    held_trainer = str(Path(__file__).parents[1] / "held_trainer.py")
    settings.TUNIX_COMMAND = [sys.executable, "-I", "-u", held_trainer, str(hold), "os.rename /4"]
    few = {
        "max_steps": 6,
        "checkpoint_every_steps": 2,
        "max_seq_length": 128,
        "batch_size": 3,
        "exact_match_examples": 0,
    }
    run = submit(dataset_key=make_dataset("few", size=9).dataset_key, num_epochs=9, **few)
    launch_pending()
    wait_for(
        lambda: (hold / "held").exists() or (run_folder(run) / names.EXIT).exists(),
        "the second checkpoint",
    )
    assert (hold / "held").exists(), (run_folder(run) / names.STDERR).read_text()
    assert complete_steps(run_folder(run) / names.CHECKPOINTS) == [2]

    # 2. A backup, and nothing is left of the system.
    backup = program("manage.py", "backup", str(tmp_path / "backup"))
    assert backup.wait() == 0, backup.said()
    end_keeper(run_folder(run))
    shutil.rmtree(settings.TUNIX_OUTPUT_ROOT)

    # 3. Restored elsewhere, where somebody retries the run.
    restore = program("manage.py", "restore", str(tmp_path / "backup"), **elsewhere)
    assert restore.wait() == 0, restore.said()
    going_on = program("manage.py", "shell", "--no-imports", "-c", GO_ON, **elsewhere)
    assert going_on.wait() == 0, going_on.said()

    found = json.loads(going_on.said().splitlines()[-1])
    assert found["was"][0] == "failed"
    assert found["was"][1].startswith("Restored from the backup of ")
    assert found["is"] == ["completed", "Training completed."]
    assert found["steps"] == [3, 4, 5, 6]
