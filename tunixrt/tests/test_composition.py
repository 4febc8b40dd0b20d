"""The composition (docker-compose.yml, Dockerfile): what reaches its containers, and that its
commands work with exactly that."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from runs.tests.launching import PATIENCE, wait_for
from runs.tests.ports import HeldPort
from runs.tests.programs import Program
from tunixrt import healthcheck
from tunixrt.tests.composition import (
    COMPOSE,
    Composition,
    MissingVariable,
    exec_form,
    final_image,
    interpolate,
)
from tunixrt.tests.plugin import ROOT
from tunixrt.tests.postgres import PostgresServer, postgres_server
from tunixrt.tests.test_settings import code_defaults, documented

OURS = ("migrate", "web", "worker")
# How the containers are put together; a .env that was written for the machine itself must not
# change it.
FIXED = {
    "DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "DEBUG", "TUNIXRT_LOCAL_MODE", "TUNIXRT_BIND",
    "TUNIXRT_ENV_FILE", "TUNIXRT_VAR_DIR", "TUNIX_OUTPUT_ROOT", "TUNIX_MODEL_ROOTS", "TUNIX_PYTHON",
    "TUNIX_DATA_ROOTS", "TUNIX_SCORER_ROOTS", "HF_HOME",
}  # fmt: skip
COMPOSED = {"SECRET_KEY", "ALLOWED_HOSTS", "TUNIX_HOST_NAME", "PGPASSWORD"}
SECRETS = {"SECRET_KEY": "k" * 50, "POSTGRES_PASSWORD": "p"}
PASSWORD = "p/w#1%40@:? $x\"'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}-$B-${C}", "a--"),
        ("${A:-x} ${B:-x} ${C:-x}", "a x x"),
        ("${B-x}|${C-x}", "|x"),
        ("${A:+x} ${B:+x}|${B+x}", "x |x"),
        ("$$A $${A} a$$", "$A ${A} a$"),
        ("${C:-${B:-${A}}} ${C:-}", "a "),
        ("${A:?no}", "a"),
    ],
)
def test_variables_are_put_in_as_docker_does(text: str, expected: str):
    assert interpolate(text, {"A": "a", "B": ""}) == expected


@pytest.mark.parametrize("text", ["${B:?set B}", "${C:?set B}", "${C?set B}"])
def test_a_required_variable_that_is_missing_is_named(text: str):
    with pytest.raises(MissingVariable, match="set B"):
        interpolate(text, {"B": ""})
    assert interpolate("${B?set B}", {"B": ""}) == ""


@pytest.mark.parametrize("name", SECRETS)
def test_the_composition_does_not_start_without_its_secrets(name: str):
    with pytest.raises(MissingVariable, match=name):
        Composition(**SECRETS | {name: ""})


@pytest.mark.parametrize("service", OURS)
def test_every_setting_in_the_env_file_reaches_the_containers(service: str):
    """Webhook secret, retention, slots … and what only the training program reads."""
    settings = {
        name: f"own {name}" for name in [*documented(), "HF_TOKEN", "HTTPS_PROXY", "XLA_FLAGS"]
    }
    dotenv = "".join(f"{name}='{value}'\n" for name, value in settings.items())

    environment = Composition(dotenv).environment(service)
    fixed = {
        name: value
        for name, value in COMPOSE["services"][service]["environment"].items()
        if "$" not in value
    }

    assert fixed.keys() >= FIXED
    assert fixed.items() <= environment.items()
    for name in settings.keys() - fixed.keys() - COMPOSED:
        assert environment[name] == settings[name]
    assert environment["SECRET_KEY"] == "own SECRET_KEY"
    assert environment["PGPASSWORD"] == "own POSTGRES_PASSWORD"
    assert environment["ALLOWED_HOSTS"] == "own ALLOWED_HOSTS,web"
    assert environment["TUNIX_HOST_NAME"] == "own TUNIX_HOST_NAME"


def test_every_setting_that_is_a_place_of_the_container_is_fixed():
    places = {
        name for name in code_defaults() if re.search(r"_(DIR|FILE|ROOTS?|PYTHON|BIND|URL)$", name)
    }

    assert places - FIXED == {"TUNIX_WEBHOOK_URL"}


def test_without_an_env_file_the_composition_starts_all_the_same():
    assert Composition(**SECRETS).environment("web")["ALLOWED_HOSTS"] == "localhost,127.0.0.1,web"


def test_what_the_containers_write_lies_on_volumes_that_their_user_may_write():
    """A volume takes owner and mode from the folder in the image; the project's folders are for
    their owner alone."""
    made = re.search(r"install -d -m 700 -o tunixrt -g tunixrt ([^&\n]+)", final_image())
    assert made is not None

    for service in OURS:
        composition = Composition(**SECRETS)
        mounted = {volume.rsplit(":", 1)[1] for volume in composition.services[service]["volumes"]}
        environment = composition.environment(service)
        assert mounted <= set(made[1].split())
        roots = ("OUTPUT_ROOT", "MODEL_ROOTS", "DATA_ROOTS", "SCORER_ROOTS")
        assert {environment[f"TUNIX_{name}"] for name in roots} <= mounted
        caches = Path(environment["TUNIXRT_VAR_DIR"]) / "cache"
        assert str(caches) in mounted
        assert caches in Path(environment["HF_HOME"]).parents
        assert environment["TUNIXRT_VAR_DIR"] == environment["HOME"]
        assert environment["HOME"] in made[1].split()


def test_the_image_can_back_up_the_database_of_the_composition():
    """pg_dump refuses a server that is newer than itself."""
    (server,) = re.findall(r"^postgres:(\d+)$", COMPOSE["services"]["database"]["image"])
    (client,) = re.findall(r"postgresql-client-(\d+)", final_image())
    assert int(client) >= int(server)


def test_local_models_may_lie_in_a_folder_of_the_machine():
    volumes = Composition(**SECRETS, TUNIXRT_MODELS="/srv/models").services["worker"]["volumes"]

    assert "/srv/models:/var/lib/tunixrt/models" in volumes


def test_files_to_import_may_lie_in_a_folder_of_the_machine():
    volumes = Composition(**SECRETS, TUNIXRT_DATA="/srv/data").services["web"]["volumes"]

    assert "/srv/data:/var/lib/tunixrt/data" in volumes


@pytest.mark.parametrize("password", ["", "long enough"])
def test_grafana_does_not_start_with_a_password_that_everybody_knows(password: str):
    composition = Composition(**SECRETS, GRAFANA_PASSWORD=password)
    shell, option, script = composition.services["grafana"]["entrypoint"]
    assert script.endswith("exec /run.sh\n")

    ended = subprocess.run(
        [shell, option, script.replace("exec /run.sh", "echo started")],
        env={"PATH": os.defpath} | composition.environment("grafana"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == ((0, "started\n") if password else (1, ""))
    assert ("GRAFANA_PASSWORD" in ended.stderr) == (not password)


@pytest.mark.parametrize(
    ("allowed", "name"),
    [
        ("", "localhost"),
        ("*,web", "localhost"),
        (".example.org,web", "example.org"),
        ("tunix.example.org, other.example.org", "tunix.example.org"),
    ],
)
def test_the_health_check_asks_by_a_name_that_is_answered(
    allowed: str, name: str, settings, client
):
    assert healthcheck.accepted_name(allowed) == name
    settings.ALLOWED_HOSTS = (
        [host.strip() for host in allowed.split(",")] if allowed else ["localhost"]
    )
    settings.TUNIXRT_LOCAL_MODE = False

    # by any other name: 400
    assert client.get("/static/nothing", headers={"host": name}).status_code == 404


def test_the_health_check_says_what_is_wrong():
    ended = subprocess.run(
        [sys.executable, *exec_form("HEALTHCHECK")[1:]],
        cwd=ROOT,
        env={"TUNIXRT_BIND": "0.0.0.0:1", "ALLOWED_HOSTS": "*"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "refused" in ended.stderr


@dataclass
class Containers:
    """The composition as programs of this machine: its commands in its environment, but for places
    and addresses."""

    composition: Composition
    folder: Path
    database: PostgresServer
    port: HeldPort

    def environment(self, service: str) -> dict[str, str]:
        given = self.composition.environment(service)
        moved = {
            name: value.replace("/var/lib/tunixrt", str(self.folder))
            for name, value in given.items()
        }
        moved |= {
            "PATH": os.environ["PATH"],
            "TUNIX_PYTHON": sys.executable,
            "TUNIXRT_BIND": self.port.address,
            "PGHOST": self.database.socket,
        }
        measuring = {
            name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")
        }
        return moved | measuring

    def command(self, service: str) -> list[str]:
        python, *arguments = self.composition.services[service].get("command") or exec_form("CMD")
        assert python == "python"
        return arguments

    def run(self, service: str, arguments: list[str], **variables: str) -> str:
        """Run a command in the service's container; what it said."""
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment(service) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def is_well(self, service: str) -> bool:
        check = (
            self.composition.services[service]
            .get("healthcheck", {})
            .get("test", ["CMD", *exec_form("HEALTHCHECK")])
        )
        assert check[:2] == ["CMD", "python"]
        ended = subprocess.run(
            [sys.executable, *check[2:]],
            cwd=ROOT,
            env=self.environment(service),
            capture_output=True,
            check=False,
        )
        return ended.returncode == 0

    def start(self, service: str) -> Program:
        return Program(
            self.command(service), self.folder / f"{service}.log", instead=self.environment(service)
        )


@pytest.fixture
def containers(tmp_path: Path, port: HeldPort) -> Iterator[Containers]:
    quoted = PASSWORD.replace("'", r"\'")
    composition = Composition(
        f"SECRET_KEY='{'k' * 50}'\nPOSTGRES_PASSWORD='{quoted}'\n"
        "ALLOWED_HOSTS=*\nTUNIX_SLOTS=2\nTUNIX_RETENTION=true\n"
        "DATABASE_URL=sqlite:///of-the-machine.sqlite3\nTUNIXRT_VAR_DIR=/srv/of-the-machine\n"
    )
    of_database = composition.environment("database")
    assert (
        of_database["POSTGRES_PASSWORD"] == composition.environment("web")["PGPASSWORD"] == PASSWORD
    )
    with postgres_server() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            user, name = (
                sql.Identifier(of_database["POSTGRES_USER"]),
                sql.Identifier(of_database["POSTGRES_DB"]),
            )
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(user, sql.Literal(PASSWORD))
            )
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, user))
        server.ask_for_passwords(of_database["POSTGRES_USER"])
        yield Containers(composition, tmp_path / "var", server, port)


def test_every_command_of_the_composition_works_in_the_environment_it_gets(containers: Containers):
    """From an empty database to a page that a person with the first account sees, without a proxy
    and without TLS."""
    for folder in re.findall(
        r"/var/lib/tunixrt(/\w+)?", final_image().partition("install -d")[2].partition("\n")[0]
    ):
        (containers.folder / folder.lstrip("/")).mkdir(mode=0o700, parents=True, exist_ok=True)
    containers.run("migrate", containers.command("migrate"))
    containers.run(
        "web",
        [*first_account()[1:], "--noinput", "--username", "ada", "--email", "ada@example.org"],
        DJANGO_SUPERUSER_PASSWORD="correct horse battery",
    )

    web, worker = containers.start("web"), containers.start("worker")
    try:
        wait_for(lambda: containers.is_well("web"), "a healthy web server")
        wait_for(lambda: containers.is_well("worker"), "a healthy worker")
        with httpx.Client(base_url=containers.port.url, timeout=PATIENCE) as client:
            page = client.get("/login")
            assert page.status_code == 200  # not sent to an HTTPS that is not there
            assert "strict-transport-security" not in page.headers
            fields = {
                "csrfmiddlewaretoken": client.cookies["csrftoken"],
                "username": "ada",
                "password": "correct horse battery",
            }
            assert client.post("/login", data=fields).status_code == 302
            assert client.get("/").status_code == 200
        containers.run("web", ["manage.py", "check", "--fail-level", "WARNING"])
    finally:
        for program in (web, worker):
            program.process.terminate()
        assert (web.wait(), worker.wait()) == (0, 0), web.said() + worker.said()


def first_account() -> list[str]:
    """The documented step after `docker compose up`."""
    steps = {
        re.search(
            r"docker compose exec web (python manage\.py createsuperuser)",
            (ROOT / name).read_text(),
        )
        for name in ("README.md", "docs/operations.md", "docker-compose.yml")
    }
    assert None not in steps, "each of them says how"
    (command,) = {step[1] for step in steps if step}
    return command.split()
