"""Settings that cannot work together are said by `manage.py check`, each with an id of its own
(docs/settings.md)."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.checks import CheckMessage

from tunixrt.tests.plugin import ROOT

GOOD: dict[str, Any] = {
    "TUNIXRT_LOCAL_MODE": True,
    "TUNIXRT_BIND": "127.0.0.1:8000",
    "TUNIX_SLOTS": 1,
    "TUNIXRT_WEB_THREADS": 4,
    "ALLOWED_HOSTS": ["localhost"],
}


def ids(*, deploy: bool = False) -> list[str]:
    messages: list[CheckMessage] = checks.run_checks(include_deployment_checks=deploy)
    return [message.id for message in messages if message.id and message.id.startswith("tunixrt.")]


@pytest.fixture
def configure(settings):
    def apply(**values: Any) -> None:
        for name, value in {**GOOD, **values}.items():
            setattr(settings, name, value)

    return apply


def test_with_nothing_set_there_is_nothing_to_say(settings):
    # Django's test runner adds it
    settings.ALLOWED_HOSTS = [host for host in settings.ALLOWED_HOSTS if host != "testserver"]
    assert ids() == []


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("127.0.0.1:8000", []),
        ("127.0.0.2:80", []),
        ("localhost:8000", []),
        ("[::1]:8000", []),
        ("0.0.0.0:8000", ["tunixrt.E001"]),
        ("[::]:8000", ["tunixrt.E001"]),
        ("192.0.2.1:8000", ["tunixrt.E001"]),
        ("tunixrt.example:8000", ["tunixrt.E001"]),
    ],
)
def test_local_mode_listens_on_loopback_only(configure, bind: str, expected: list[str]):
    configure(TUNIXRT_BIND=bind)

    assert ids() == expected


def test_without_local_mode_any_address_will_do(configure):
    configure(TUNIXRT_LOCAL_MODE=False, TUNIXRT_BIND="0.0.0.0:8000")

    assert ids() == []


@pytest.mark.parametrize(("local_mode", "expected"), [(True, ["tunixrt.W002"]), (False, [])])
def test_local_mode_is_worth_a_warning_before_a_deployment(
    configure, local_mode: bool, expected: list[str]
):
    configure(TUNIXRT_LOCAL_MODE=local_mode)

    assert ids(deploy=True) == expected


def test_another_module_named_datasets_is_found_out(configure, settings, tmp_path: Path):
    settings.BASE_DIR = tmp_path

    assert "tunixrt.E003" in ids()


@pytest.mark.parametrize(
    ("slots", "threads", "expected"),
    [(2, 4, []), (3, 4, ["tunixrt.E004"]), (0, 2, []), (0, 1, ["tunixrt.E004"])],
)
def test_runs_in_the_request_leave_two_threads_free(
    configure, slots: int, threads: int, expected: list[str]
):
    configure(TUNIX_SLOTS=slots, TUNIXRT_WEB_THREADS=threads)

    assert ids() == expected


@pytest.mark.parametrize(("workers", "expected"), [(1, []), (8, []), (0, ["tunixrt.E012"])])
def test_a_web_server_has_a_process(configure, workers: int, expected: list[str]):
    configure(TUNIXRT_WEB_WORKERS=workers)

    assert ids() == expected


@pytest.mark.parametrize(
    "name",
    [
        "TUNIX_SYNC_TIMEOUT_SECONDS",
        "TUNIX_RUN_TIMEOUT_SECONDS",
        "TUNIX_STOP_WAIT_SECONDS",
        "TUNIX_TERM_GRACE_SECONDS",
    ],
)
@pytest.mark.parametrize(
    ("value", "expected"), [(0.1, []), (0.0, ["tunixrt.E005"]), (-1.0, ["tunixrt.E005"])]
)
def test_a_time_limit_is_greater_than_nothing(
    configure, name: str, value: float, expected: list[str]
):
    configure(**{name: value})

    assert ids() == expected


def test_no_time_limit_at_all_is_allowed(configure):
    configure(TUNIX_RUN_TIMEOUT_SECONDS=None)

    assert ids() == []


def test_slots_are_not_negative(configure):
    configure(TUNIX_SLOTS=-1)

    assert ids() == ["tunixrt.E006"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(256, []), (10_240, []), (255, ["tunixrt.E007"]), (10_241, ["tunixrt.E007"])],
)
def test_the_kept_output_has_a_size_the_contract_allows(configure, size: int, expected: list[str]):
    configure(TUNIX_OUTPUT_MAX_BYTES=size)

    assert ids() == expected


@pytest.mark.parametrize(
    "name", ["TUNIX_RETENTION_DAYS", "TUNIX_RETENTION_RUNS", "TUNIX_TRASH_HOURS"]
)
def test_what_is_kept_has_limits(configure, name: str):
    for value in (-1, 10**12, float("nan")):
        configure(**{name: value})
        assert ids() == ["tunixrt.E031"], value
    configure(**{name: 30})
    assert ids() == []


@pytest.mark.parametrize(
    ("silent", "lost", "expected"), [(60.0, 61.0, []), (60.0, 60.0, ["tunixrt.E008"])]
)
def test_a_host_is_silent_before_it_is_lost(
    configure, silent: float, lost: float, expected: list[str]
):
    configure(TUNIX_HOST_SILENT_SECONDS=silent, TUNIX_HOST_LOST_SECONDS=lost)

    assert ids() == expected


@pytest.mark.parametrize(
    ("tls", "proxy", "expected"),
    [(False, False, []), (False, True, []), (True, True, []), (True, False, ["tunixrt.E011"])],
)
def test_https_needs_somebody_who_speaks_it(configure, tls: bool, proxy: bool, expected: list[str]):
    configure(TUNIXRT_LOCAL_MODE=False, TUNIXRT_TLS=tls, TUNIXRT_BEHIND_PROXY=proxy)

    assert ids() == expected


@pytest.mark.parametrize(
    ("hosts", "local_mode", "expected"),
    [
        (["localhost", "127.0.0.1", "[::1]"], True, []),
        (["localhost", "tunixrt.example"], True, ["tunixrt.E009"]),
        (["*"], True, ["tunixrt.E009"]),
        ([".localhost.example"], True, ["tunixrt.E009"]),
        (["tunixrt.example"], False, []),
    ],
)
def test_local_mode_is_reached_by_loopback_names_only(
    configure, settings, hosts: list[str], local_mode: bool, expected: list[str]
):
    configure(TUNIXRT_LOCAL_MODE=local_mode)
    settings.ALLOWED_HOSTS = hosts
    assert ids() == expected


def test_a_folder_that_others_can_read_is_named(configure, settings, tmp_path: Path):
    configure()
    settings.TUNIX_OUTPUT_ROOT = tmp_path / "output"
    settings.TUNIX_OUTPUT_ROOT.mkdir(mode=0o700)
    assert ids() == []
    settings.TUNIX_OUTPUT_ROOT.chmod(0o750)
    assert ids() == ["tunixrt.W010"]


def test_what_a_command_writes_is_for_its_account_only(tmp_path: Path):
    """Also under the usual umask, which lets everybody read."""
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "TUNIXRT_ENV_FILE": "/dev/null",
            "TUNIXRT_VAR_DIR": str(tmp_path / "var"),
        },
        umask=0o022,
        check=True,
    )

    made = [tmp_path / "var", *(tmp_path / "var").rglob("*")]
    assert tmp_path / "var" / "tunixrt.sqlite3" in made
    assert [path for path in made if path.stat().st_mode & 0o077] == []
