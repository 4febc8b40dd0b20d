"""Files that other programs read (compose, Docker, workflows, pre-commit, Procfile): valid, and
what they name exists."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands

from runs.execution.stopping import MARGIN_SECONDS
from tunixrt.tests.composition import COMPOSE, DOCKERFILE, Composition
from tunixrt.tests.plugin import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = Composition(
    SECRET_KEY="k" * 50, POSTGRES_PASSWORD="p"
).services
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def make_targets() -> set[str]:
    return set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_composition_is_web_worker_and_postgresql_and_on_demand_monitoring():
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "web",
        "worker",
        "database",
        "migrate",
    }
    assert {
        name for name, service in SERVICES.items() if service.get("profiles") == ["monitoring"]
    } == {"prometheus", "grafana"}
    assert all("image" in service for service in SERVICES.values())
    assert SERVICES["database"]["image"].startswith("postgres:")


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_exists_and_can_be_waited_for(name: str):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


def test_every_volume_is_declared_and_the_output_is_shared():
    used = {
        name: {volume.split(":")[0] for volume in service["volumes"]}
        for name, service in SERVICES.items()
    }

    named = {volume for volume in set().union(*used.values()) if not volume.startswith("./")}
    assert named == COMPOSE["volumes"].keys()
    assert all((ROOT / volume).is_dir() for volume in set().union(*used.values()) - named)
    assert "output" in used["web"] & used["worker"]
    for name in ("web", "worker"):
        mounted = {volume.split(":")[1] for volume in SERVICES[name]["volumes"]}
        assert SERVICES[name]["environment"]["TUNIX_OUTPUT_ROOT"] in mounted


def test_secrets_have_no_default_and_everything_else_has_one():
    for variable, operator in re.findall(r"\$\{(\w+)([^}]*)\}", TEXT):
        assert operator.startswith(
            ":?" if variable in {"SECRET_KEY", "POSTGRES_PASSWORD"} else ":-"
        ), variable
    assert not re.search(r"(PASSWORD|SECRET_KEY): (?!\$\{)", TEXT)


def test_web_and_worker_use_the_database_of_the_composition():
    of_database = SERVICES["database"]["environment"]
    for name in ("migrate", "web", "worker"):
        environment = SERVICES[name]["environment"]
        assert environment["PGHOST"] == "database"
        assert environment["PGUSER"] == of_database["POSTGRES_USER"]
        assert environment["PGPASSWORD"] == of_database["POSTGRES_PASSWORD"]
        assert environment["DATABASE_URL"] == f"postgresql:///{of_database['POSTGRES_DB']}"


def test_processes_that_keepers_leave_behind_are_collected():
    assert SERVICES["web"]["init"] is True
    assert SERVICES["worker"]["init"] is True


def test_containers_have_the_time_that_their_end_takes():
    """Docker kills what has not ended by then, and a training would lose what it has learnt since
    its last checkpoint."""
    grace = {
        name: int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        for name in ("web", "worker")
    }
    saving = settings.TUNIX_STOP_WAIT_SECONDS + settings.TUNIX_TERM_GRACE_SECONDS + MARGIN_SECONDS

    assert grace["worker"] >= saving + 10  # the attendant's own end
    assert grace["web"] >= settings.TUNIX_SYNC_TIMEOUT_SECONDS + 10


def test_signals_reach_the_programs_themselves():
    """A shell in between would keep them to itself."""
    assert re.findall(r"^(?:CMD|ENTRYPOINT) (?!\[)", DOCKERFILE, re.MULTILINE) == []
    assert all(isinstance(service.get("command", []), list) for service in SERVICES.values())


def test_everything_is_published_on_loopback_only():
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "ports" not in SERVICES["database"]


def commands() -> list[list[str]]:
    procfile = [
        line.split(": ", 1)[1].split() for line in (ROOT / "Procfile").read_text().splitlines()
    ]
    composed = [service["command"] for service in SERVICES.values() if "command" in service]
    image = [
        re.findall(r'"([^"]+)"', line)
        for line in DOCKERFILE.splitlines()
        if line.startswith("CMD [")
    ]
    makefile = [
        shlex.split(line)
        for line in re.findall(r"manage\.py [a-z]+", (ROOT / "Makefile").read_text())
    ]
    return [
        command[command.index("manage.py") :]
        for command in [*procfile, *composed, *image, *makefile]
    ]


def test_every_command_exists():
    assert len(commands()) >= 7
    assert {command[1] for command in commands()} <= get_commands().keys()


def test_what_the_image_copies_exists_and_is_sent_to_docker():
    sent = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        path
        for line in DOCKERFILE.splitlines()
        if re.match(r"COPY (?!--)", line)
        for path in line.split()[1:-1]
    }

    assert copied == {"requirements", ".ci/environment", ".ci/install.py"}
    for path in [*copied, *sent]:
        assert (ROOT / path).exists(), path
        assert path in sent
    assert {"tunixrt", "datasets", "runs", "templates", "manage.py"} <= sent


def test_the_image_runs_as_nobody_special_and_without_local_mode():
    final = DOCKERFILE.rpartition("\nFROM ")[2]

    assert re.search(r"^USER tunixrt$", final, re.MULTILINE)
    assert "TUNIXRT_LOCAL_MODE=false" in final
    assert 'CMD ["python", "manage.py", "web"]' in final.splitlines()[-1]


def test_the_image_takes_the_extras_the_composition_gives():
    assert SERVICES["web"]["build"]["args"].keys() == set(
        re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE)
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_its_actions_and_calls_what_exists(path: Path):
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]

    for step in steps:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+\.\d+\.\d+", step["uses"])
        for target in re.findall(r"^make ([a-z -]+)$", step.get("run", ""), re.MULTILINE):
            assert set(target.split()) <= make_targets()
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    assert workflow["permissions"] == {"contents": "read"}


def scripts() -> list[Any]:
    """Every piece of shell that is to fail when something is wrong: steps of workflows, programs of
    .ci, the Makefile."""
    steps = [
        pytest.param(step["run"], id=f"{path.name}:{step.get('name', step['run'][:20])}")
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    files = [
        path
        for path in (ROOT / ".ci").iterdir()
        if path.is_file() and path.read_bytes().startswith(b"#!")
    ]
    return steps + [
        pytest.param(path.read_text(), id=path.name) for path in [*files, ROOT / "Makefile"]
    ]


@pytest.mark.parametrize("script", scripts())
def test_no_check_is_one_that_cannot_fail(script: str):
    """`set -e` does not stop at a command after `!`, so nothing happens when it succeeds."""
    assert not re.search(r"^\s*@?!\s", script, re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_failure_before_a_pipe_counts(path: Path):
    """The shell that GitHub takes unless told otherwise has no pipefail."""
    assert yaml.safe_load(path.read_text())["defaults"] == {"run": {"shell": "bash"}}


@pytest.mark.parametrize(("code", "expected"), [(0, 1), (1, 0)], ids=["accepted", "refused"])
def test_the_workflow_fails_when_the_composition_starts_without_its_secrets(
    tmp_path: Path, code: int, expected: int
):
    (script,) = [
        step["run"]
        for step in yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"][
            "image"
        ]["steps"]
        if "without its secrets" in step.get("name", "")
    ]
    (tmp_path / "docker").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "docker").chmod(0o755)

    ended = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        env={
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SECRET_KEY": "k",
            "POSTGRES_PASSWORD": "p",
        },
        capture_output=True,
        check=False,
    )

    assert ended.returncode == expected


def test_there_is_a_workflow_for_each_occasion():
    assert [path.name for path in WORKFLOWS] == ["audit.yml", "ci.yml", "newest.yml", "runtime.yml"]
    versions = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["core"][
        "strategy"
    ]["matrix"]["python"]
    assert versions == ["3.11", "3.13"]


def test_pre_commit_has_local_hooks_only():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert repository["repo"] == "local"
    assert {"format", "lint", "layers", "migrations"} <= {
        hook["id"] for hook in repository["hooks"]
    }


def test_programs_are_executable():
    for name in (".ci/run", ".ci/environment", "manage.py"):
        assert (ROOT / name).stat().st_mode & 0o111, name
