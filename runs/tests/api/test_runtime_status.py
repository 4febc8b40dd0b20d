"""GET /api/tunix/status: is the training runtime here? True to the environment that it is asked
in."""

import importlib.metadata
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from runs.services import runtime
from runs.services.runtime import local_runtime, tunix_command
from runs.tests.conftest import ROOT, Script

pytestmark = pytest.mark.django_db
URL = "/api/tunix/status"
MISSING = {
    "available": False,
    "version": None,
    "runtime_required": False,
    "message": (
        "Tunix runtime not available. Install with `pip install -e '.[tunix]'` to enable local"
        " execution."
    ),
}
ASK = "import importlib.metadata as m; print(m.version('google-tunix'))"


def test_tells_what_is_installed_beside_the_server(api: APIClient):
    asked = subprocess.run(
        [sys.executable, "-I", "-c", ASK], capture_output=True, text=True, check=False
    )

    answer = api.get(URL).json()

    if asked.returncode == 0:
        assert answer == {
            "available": True,
            "version": asked.stdout.strip(),
            "runtime_required": True,
            "message": "Tunix runtime is available for execution.",
        }
    else:
        assert answer == MISSING


@pytest.mark.tunix
def test_with_the_runtime_it_is_available(api: APIClient):
    answer = api.get(URL).json()

    assert (answer["available"], answer["runtime_required"]) == (True, True)
    assert answer["version"].startswith("0.1.")


def test_another_interpreter_without_the_runtime_has_none(api: APIClient, without_runtime: None):
    assert api.get(URL).json() == MISSING


@pytest.mark.tunix
def test_another_interpreter_with_the_runtime_is_asked(
    api: APIClient, settings: LazySettings, tmp_path: Path
):
    """A GPU box may keep its JAX environment apart."""
    link = tmp_path / "python"
    link.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    link.chmod(0o755)
    settings.TUNIX_PYTHON = str(link)

    assert api.get(URL).json()["available"] is True


def test_another_training_command_tells_its_own_version(api: APIClient, scripted: Script):
    scripted()

    answer = api.get(URL).json()

    assert (answer["available"], answer["version"]) == (True, "1.0")


@pytest.mark.parametrize(
    "command",
    [
        ["/no/such/program"],
        ["no-such-program"],
        ["/etc/passwd"],
        ["/"],
        ["false"],
        ["sh", "-c", "true"],
        ["sh", "-c", "exit 3"],
        ["sh", "-c", "echo"],
    ],
)
def test_a_command_that_cannot_tell_its_version_is_no_runtime(
    api: APIClient, settings: LazySettings, command: list[str]
):
    settings.TUNIX_COMMAND = command

    answer = api.get(URL).json()

    assert answer | {"message": ""} == MISSING | {"message": ""}
    assert answer["message"].startswith(
        f"Tunix runtime not available. TUNIX_COMMAND names the program '{command[0]}', which "
    )


def test_a_training_command_that_is_not_there_is_named_and_not_called_an_installation(
    api: APIClient, settings: LazySettings, body: dict[str, Any]
):
    settings.TUNIX_COMMAND = ["/no/such/program", "--secret"]
    said = (
        "Tunix runtime not available. TUNIX_COMMAND names the program '/no/such/program', which is"
        " not there or cannot be executed: correct the setting."
    )

    refused = api.post("/api/tunix/run", body | {"dry_run": False}, format="json")

    assert api.get(URL).json()["message"] == said
    assert (refused.status_code, refused.json()["detail"]) == (501, said)


def test_a_command_that_says_nonsense_does_not_break_the_answer(
    api: APIClient, settings: LazySettings
):
    settings.TUNIX_COMMAND = ["sh", "-c", "printf '\\377\\0 %0200d' 7"]

    assert api.get(URL).json()["version"] == "unknown"


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('"x"}}', "unknown"),
        ("<b>1</b>", "unknown"),
        ("tunix 1.2.0rc1+cuda", "1.2.0rc1+cuda"),
        ("a warning\n2.0", "2.0"),
        ("7" * 65, "unknown"),
    ],
)
def test_only_what_may_be_a_version_is_shown_as_one(
    api: APIClient, settings: LazySettings, said: str, version: str
):
    settings.TUNIX_COMMAND = ["sh", "-c", f"printf '%s' '{said}'"]

    answer = api.get(URL).json()

    assert (answer["available"], answer["version"]) == (True, version)


def test_a_process_is_asked_once_in_half_a_minute(
    settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert runtime._REMEMBER_SECONDS == 30
    log = tmp_path / "asked"
    command = tmp_path / "trainer"
    command.write_text(f"#!/bin/sh\necho x >> {log}\necho 2.0\n")
    command.chmod(0o755)
    settings.TUNIX_COMMAND = [str(command)]

    monkeypatch.setattr(runtime, "_REMEMBER_SECONDS", 3600)
    assert {local_runtime().version for _ in range(100)} == {"2.0"}
    assert log.read_text() == "x\n"


def test_what_is_installed_here_is_looked_up_once_in_half_a_minute(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
):
    settings.TUNIX_COMMAND, settings.TUNIX_PYTHON = [], sys.executable
    looked_up: list[str] = []
    look_up = importlib.metadata.version

    def noted(name: str) -> str:
        looked_up.append(name)
        return look_up(name)

    monkeypatch.setattr(importlib.metadata, "version", noted)
    monkeypatch.setattr(runtime, "_remembered", {})
    monkeypatch.setattr(runtime, "_REMEMBER_SECONDS", math.inf)  # the machine may be slow

    assert len({local_runtime() for _ in range(100)}) == 1
    assert looked_up == ["google-tunix"]


def test_answers_from_memory_and_imports_nothing_of_the_runtime(tmp_path: Path):
    """In a process of its own, so that nothing another test imported counts."""
    script = """
import sys
import django
django.setup()
from runs.services import runtime
runtime._REMEMBER_SECONDS = float("inf")
runtime.local_runtime()
looked = []
sys.addaudithook(lambda event, _: looked.append(event))
for _ in range(20):
    runtime.local_runtime()
assert not {"open", "os.listdir", "os.scandir", "import", "subprocess.Popen"} & set(looked), looked
import tunixrt.urls
heavy = {"jax", "jaxlib", "flax", "tunix", "transformers", "numpy", "torch"} & set(sys.modules)
assert not heavy, heavy
import datasets
print(datasets.__file__)
"""
    environment = {
        "PATH": "/usr/bin:/bin",
        "DJANGO_SETTINGS_MODULE": "tunixrt.settings",
        "TUNIXRT_VAR_DIR": str(tmp_path),
        "TUNIXRT_ENV_FILE": "/dev/null",
    }
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )

    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.strip()) == ROOT / "datasets" / "__init__.py"


def test_the_projects_own_trainer_is_started_in_isolation(settings: LazySettings):
    settings.TUNIX_COMMAND = []
    settings.TUNIX_PYTHON = "/opt/gpu/bin/python"

    assert tunix_command() == [
        "/opt/gpu/bin/python",
        "-I",
        "-u",
        str(ROOT / "runs" / "trainer" / "launch.py"),
    ]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_is_for_reading_only(api: APIClient, method: str):
    assert getattr(api, method)(URL).status_code == 405
