"""Execution is primary: the database goes away during a run in the request, and the run, its answer
and its result remain."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from runs.tests.conftest import ROOT, Program, Script, Start
from runs.tests.launching import PATIENCE, wait_for
from runs.tests.ports import HeldPort
from tunixrt.tests.postgres import postgres_server

TRACE = {"prompt": "1+1=?", "steps": [], "final_answer": "2"}


def test_the_answer_comes_from_the_folder_and_the_row_gets_it_later(
    program: Start,
    port: HeldPort,
    scripted: Script,
    output_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    scripted(["touch", "begun"], ["wait", "go"], ["steps", 3, 0], ["say", "trained"])
    with (
        # what was committed must be there after the crash
        postgres_server(durable=True) as database,
        httpx.Client(base_url=port.url, timeout=PATIENCE, trust_env=False) as client,
    ):
        monkeypatch.setenv("DATABASE_URL", database.url())
        monkeypatch.setenv("TUNIXRT_VAR_DIR", str(tmp_path / "var"))
        migrate = [sys.executable, "manage.py", "migrate", "-v", "0"]
        subprocess.run(migrate, cwd=ROOT, env=os.environ, check=True, capture_output=True)
        site = program("manage.py", "web", TUNIXRT_BIND=port.address)
        wait_for(lambda: answers(client, site), "the server")
        trace = client.post("/api/traces", json=TRACE).json()
        made = client.post(
            "/api/datasets", json={"name": "sums", "version": "v1", "trace_ids": [trace["id"]]}
        )
        assert made.status_code == 201, made.text
        asked = {
            "dataset_key": "sums-v1",
            "model_id": "preset:tiny-llama",
            "dry_run": False,
            "output_dir": "mine",
        }
        heard: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: heard.append(client.post("/api/tunix/run", json=asked))
        )
        thread.start()
        wait_for((output_root / "mine" / "begun").exists, "the training")

        database.stop("immediate")
        (output_root / "mine" / "go").touch()

        thread.join(PATIENCE)
        assert heard[0].status_code == 202, heard[0].text
        answer = heard[0].json()
        assert (answer["status"], answer["exit_code"], answer["stdout"]) == (
            "completed",
            0,
            "trained\n",
        )
        assert client.get(f"/api/tunix/runs/{answer['run_id']}").status_code == 503

        attendant = program("manage.py", "attend", "--no-workers")
        wait_for(
            lambda: "the database is away" in attendant.said() or "attending " in attendant.said(),
            "the attendant",
        )
        database.start()

        wait_for(lambda: stored(client, answer["run_id"]) == "completed", "the end in the row")
        row = client.get(f"/api/tunix/runs/{answer['run_id']}").json()
        assert (row["stdout"], row["step"], row["last_loss"]) == ("trained\n", 3, 1 / 3)
        assert (row["completed_at"], row["duration_seconds"]) == (
            answer["completed_at"],
            answer["duration_seconds"],
        )


def answers(client: httpx.Client, site: Program) -> bool:
    assert site.process.poll() is None, site.said()
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def stored(client: httpx.Client, run_id: str) -> str | None:
    response = client.get(f"/api/tunix/runs/{run_id}/status")
    return response.json()["status"] if response.status_code == 200 else None
