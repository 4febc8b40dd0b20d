"""What the training program sees of our environment: an allow-list; no secret of the server, no
PYTHONPATH."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from runs.execution.environment import trainer_environment
from runs.models import Run
from runs.services.reservations import run_folder
from runs.services.runtime import LAUNCHER
from runs.tests.conftest import ROOT, Script

pytestmark = pytest.mark.django_db
ALLOWED = {
    "PATH": os.environ["PATH"],
    "HOME": "/home/ada",
    "TMPDIR": "/var/tmp",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": "/opt/lib",
    "CUDA_VISIBLE_DEVICES": "0",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_x=1",
    "HF_HOME": "/models",
    "HF_TOKEN": "hf_x",
    "http_proxy": "http://proxy:1",
    "HTTPS_PROXY": "http://proxy:2",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "REQUESTS_CA_BUNDLE": "/etc/ca.pem",
    "OMP_NUM_THREADS": "2",
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=4",
    "MALLOC_ARENA_MAX": "4",
}
SECRET = "s3cr3t"
FORBIDDEN = [
    "SECRET_KEY", "DATABASE_URL", "TUNIX_WEBHOOK_SECRET", "TUNIX_OUTPUT_ROOT_X",
    "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PGPASSWORD", "DJANGO_SETTINGS_MODULE_X", "PYTHONPATH",
    "PYTHONSTARTUP", "VIRTUAL_ENV_X", "MY_PASSWORD", "SSH_AUTH_SOCK", "PATHS", "XPATH", "HOMES",
    "CUDA", "HF", "JAX", "path_to_secret",
]  # fmt: skip


@pytest.fixture
def report(api: APIClient, body: dict[str, Any], scripted: Script) -> Any:
    """Train, and tell what the training process was given."""

    def train() -> dict[str, Any]:
        scripted(["report", "facts.json"])
        answer = api.post("/api/tunix/run", body | {"dry_run": False}, format="json").json()
        assert answer["status"] == "completed", answer
        facts: dict[str, Any] = json.loads(
            (run_folder(Run.objects.get()) / "facts.json").read_text()
        )
        return facts

    return train


def test_secrets_never_reach_the_trainer(report, monkeypatch: pytest.MonkeyPatch):
    for name in FORBIDDEN:
        monkeypatch.setenv(name, SECRET)

    environment = report()["environment"]

    assert not set(FORBIDDEN) & set(environment)
    assert SECRET not in json.dumps(environment)


def test_nor_do_the_keeper_or_any_file_of_the_folder(
    report, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
):
    settings.SECRET_KEY = SECRET
    for name in FORBIDDEN:
        monkeypatch.setenv(name, SECRET)
    report()

    folder = run_folder(Run.objects.get())
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_what_a_training_needs_reaches_it(report, monkeypatch: pytest.MonkeyPatch):
    for name, value in ALLOWED.items():
        monkeypatch.setenv(name, value)

    environment = report()["environment"]

    assert {name: environment.get(name) for name in ALLOWED} == ALLOWED


def test_the_run_is_named_and_caches_outlive_it(
    report, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    facts = report()

    run = Run.objects.get()
    assert facts["run_id"] == str(run.run_id)
    assert facts["environment"]["JAX_COMPILATION_CACHE_DIR"] == str(
        settings.TUNIXRT_VAR_DIR / "cache" / "jax"
    )
    assert facts["environment"]["TUNIXRT_CACHE_DIR"] == str(
        settings.TUNIXRT_VAR_DIR / "cache" / "tokens"
    )
    assert facts["cwd"] == str(run_folder(run))


def test_a_compilation_cache_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/fast/disk")

    assert trainer_environment(Run())["JAX_COMPILATION_CACHE_DIR"] == "/fast/disk"


def test_neither_the_lock_nor_any_file_of_the_server_is_inherited(report):
    files = report()["files"]

    assert {number for number in files if int(number) > 2} == set()


def test_the_web_process_sees_our_datasets():
    import datasets  # noqa: PLC0415 - the point of this test is what the name means here

    assert datasets.__file__ == str(ROOT / "datasets" / "__init__.py")


@pytest.mark.tunix
@pytest.mark.parametrize("how", ["PYTHONPATH", "working folder"])
def test_the_training_process_sees_hugging_faces_datasets(
    monkeypatch: pytest.MonkeyPatch, how: str
):
    """Started as the trainer is, it finds the library although the project has an application of
    the same name."""
    environment = trainer_environment(Run()) | (
        {"PYTHONPATH": str(ROOT)} if how == "PYTHONPATH" else {}
    )
    probe = f"""
import runpy, sys
sys.argv = ["launch.py", "--version"]
sys.modules["os"]._exit = lambda code: None
runpy.run_path({str(LAUNCHER)!r}, run_name="__main__")
import importlib.util
print(importlib.util.find_spec("datasets").origin)
import runs.spec.manifest
print(runs.spec.manifest.__file__)
"""
    ended = subprocess.run(
        [sys.executable, "-I", "-u", "-c", probe],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    version, found, ours = ended.stdout.split("\n")[:3]
    assert version.startswith("tunix 0.1.")
    assert "site-packages" in found
    assert not found.startswith(str(ROOT / "datasets"))
    assert ours == str(ROOT / "runs" / "spec" / "manifest.py")
