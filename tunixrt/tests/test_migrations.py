"""Every migration is reversible: tried both ways on a database of its own, by what README.md's
rollback does. A database of the version before is brought up to date."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.db import connection

from tunixrt.tests.plugin import ROOT, SERVER_URL

APPS = ["runs", "datasets", "tunixrt"]

# One program for all the steps: each `manage.py` takes a second to start. Prints what every step
# left in the database.
_PROGRAM = """
import json, sys
import django
from django.core.management import call_command
from django.db import connection

def schema():
    with connection.cursor() as cursor:
        tables = {}
        for table in connection.introspection.table_names(cursor):
            columns = connection.introspection.get_table_description(cursor, table)
            constraints = connection.introspection.get_constraints(cursor, table)
            tables[table] = {
                "columns": sorted(
                    [c.name, str(c.type_code), c.null_ok, str(c.default)] for c in columns
                ),
                "constraints": sorted(
                    [n, c["columns"], c["unique"], c["check"], c["index"]]
                    for n, c in constraints.items()
                ),
            }
        return tables

django.setup()
call_command("migrate", verbosity=0)
made = schema()
for app in sys.argv[1:]:
    call_command("migrate", app, "zero", verbosity=0)
emptied = schema()
call_command("migrate", verbosity=0)
print(json.dumps({"made": made, "emptied": emptied, "made again": schema()}))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables for programs that use an empty database of the kind under test."""
    if connection.vendor == "sqlite":
        yield os.environ | {"TUNIXRT_VAR_DIR": str(tmp_path)}
        return
    server, name = os.environ[SERVER_URL], f"tunixrt_migrations_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as administrator:
        administrator.execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        yield os.environ | {"DATABASE_URL": url, "TUNIXRT_VAR_DIR": str(tmp_path)}
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")


def run_program(program: str, *arguments: str, environment: dict[str, str]) -> Any:
    """Run a program of Django's that prints JSON."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment | {"DJANGO_SETTINGS_MODULE": "tunixrt.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_every_migration_goes_back_and_forth(environment: dict[str, str]):
    schema = run_program(_PROGRAM, *APPS, environment=environment)

    assert {"tunix_runs", "datasets_dataset"} <= schema["made"].keys()
    assert not [
        table for table in schema["emptied"] if table.startswith(("tunix", "runs_", "datasets_"))
    ]
    assert schema["made again"] == schema["made"]


# Stores runs in the tables of before, under the names of before, and brings them up to date twice.
_ROWS_PROGRAM = """
import json
import django
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

django.setup()
call_command("migrate", verbosity=0)
call_command("migrate", "runs", "0001", verbosity=0)
with connection.cursor() as cursor:
    cursor.execute("DELETE FROM django_migrations WHERE name LIKE '0001_squashed_%'")
executor = MigrationExecutor(connection)
apps = executor.loader.project_state(executor.loader.graph.leaf_nodes("auth")).apps
owner = apps.get_model("auth", "User").objects.create(username="researcher")
apps = executor.loader.project_state(
    [("runs", "0001_squashed_0014_waiting_by_owner")]
).apps
Run = apps.get_model("runs", "Run")
for number, (mode, status) in enumerate(
    [("dry-run", "pending"), ("local", "pending"), ("dry-run", "failed"), ("local", "failed")]
):
    now = timezone.now()
    Run.objects.create(
        name=f"{mode} {status}", mode=mode, status=status, dataset_key="d-1", model_id="m",
        owner_id=owner.pk, output_dir=str(number), created_at=now,
        completed_at=now if status == "failed" else None,
    )

def stored():
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, kind, engine, dry_run, mode FROM tunix_runs ORDER BY name")
        return [[*row[:3], bool(row[3]), row[4]] for row in cursor.fetchall()]

call_command("migrate", verbosity=0)
first = stored()
call_command("migrate", "runs", "0001", verbosity=0)
call_command("migrate", verbosity=0)
print(json.dumps([first, stored()]))
"""


def test_runs_of_before_get_their_kind_and_engine(environment: dict[str, str]):
    first, again = run_program(_ROWS_PROGRAM, environment=environment)

    assert first == [
        ["dry-run failed", "sft", "local", True, "dry-run"],
        ["dry-run pending", "sft", "local", True, "dry-run"],
        ["local failed", "sft", "local", False, "local"],
        ["local pending", "sft", "local", False, "local"],
    ]
    assert again == first


# Stores conversations as they were stored before there was a kind for them, goes forth, back and
# forth again, and prints what a training would read and what is stored.
_CONVERSATIONS_PROGRAM = """
import json
import django
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

django.setup()
call_command("migrate", verbosity=0)
call_command("migrate", "datasets", "0001", verbosity=0)
apps = MigrationExecutor(connection).loader.project_state([("datasets", "0001_initial")]).apps
Trace, Dataset, Item = (
    apps.get_model("datasets", name) for name in ("Trace", "Dataset", "DatasetItem")
)
talk = [
    {"role": "system", "content": "s"}, {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"}, {"role": "user", "content": "q"},
]
step = [{"i": 0, "type": "t", "content": "work"}]
bodies = [
    {"prompt": "q", "final_answer": "1", "meta": {"messages": talk, "source": "x"}},
    {"prompt": "q", "final_answer": "2", "meta": {"messages": talk}, "steps": step},
    {"prompt": "plain", "final_answer": "3", "meta": {}, "steps": step},
]
traces = [
    Trace.objects.create(content_hash=str(number) * 64, **body)
    for number, body in enumerate(bodies)
]
for name, members in (("talks", traces), ("plain", traces[2:])):
    dataset = Dataset.objects.create(
        dataset_key=f"{name}-v1", name=name, version="v1", size=len(members), fingerprint="before"
    )
    for position, trace in enumerate(members):
        Item.objects.create(dataset=dataset, trace=trace, position=position)

def exported():
    from datasets.models import Dataset
    from datasets.services.exports import export_lines
    return {
        dataset.dataset_key: [dataset.kind, dataset.fingerprint, *(
            {k: v for k, v in json.loads(line).items() if k != "id"}
            for line in export_lines(dataset)
        )]
        for dataset in Dataset.objects.order_by("dataset_key")
    }

call_command("migrate", verbosity=0)
first = exported()
call_command("migrate", "datasets", "0001", verbosity=0)
back = [
    [item.trace.prompt, item.trace.steps, item.trace.final_answer, item.trace.meta]
    for item in Item.objects.filter(dataset__name="talks").order_by("position")
]
call_command("migrate", verbosity=0)
print(json.dumps([first, back, exported()]))
"""


def test_conversations_of_before_are_trained_on_as_before(environment: dict[str, str]):
    first, back, again = run_program(_CONVERSATIONS_PROGRAM, environment=environment)

    kind, fingerprint, *lines = first["talks-v1"]
    assert (kind, fingerprint.startswith("sha256:")) == ("conversation", True)
    earlier: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},  # was not learnt
        {"role": "user", "content": "q"},
    ]
    assert [line["messages"] for line in lines] == [
        [*earlier, {"role": "assistant", "content": "1"}],
        [*earlier, {"role": "assistant", "content": "work\n2"}],
        [{"role": "user", "content": "plain"}, {"role": "assistant", "content": "work\n3"}],
    ]
    assert [line["final_answer"] for line in lines] == [None, "2", "3"]
    assert lines[0]["meta"] == {"source": "x"}
    assert first["plain-v1"][:2] == ["trace", "before"]
    talk = [{name: message[name] for name in ("role", "content")} for message in earlier]
    step = [{"i": 0, "type": "t", "content": "work"}]
    assert back == [
        ["q", [], "1", {"messages": talk, "source": "x"}],
        ["q", step, "2", {"messages": talk}],
        ["plain", step, "3", {}],
    ]
    assert again == first


# Stores traces as they were stored before their words were indexed, and searches them after.
_WORDS_PROGRAM = """
import json
import django
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

django.setup()
call_command("migrate", verbosity=0)
call_command("migrate", "datasets", "0008", verbosity=0)
before = [("datasets", "0008_archived_traces")]
apps = MigrationExecutor(connection).loader.project_state(before).apps
for number in range(3):
    apps.get_model("datasets", "Trace").objects.create(
        prompt=f"two {number}", final_answer="x", content_hash=str(number) * 64
    )
call_command("migrate", verbosity=0)

from datasets.models import Trace
from datasets.storage.word_index import find, waiting_count, work_off
from datasets.examples.words import search_words

def found():
    rows = find(search_words("two"), before=None, limit=10, offset=0)
    return [Trace.objects.get(pk=trace_id).prompt for _, trace_id in rows]

print(json.dumps([waiting_count(), found(), work_off(), waiting_count(), found()]))
"""


def test_traces_of_before_are_indexed_after_the_migration(environment: dict[str, str]):
    waiting, early, done, left, found = run_program(_WORDS_PROGRAM, environment=environment)

    assert (waiting, early, done, left) == (3, [], 3, 0)
    assert found == ["two 2", "two 1", "two 0"]


# Its two API tokens.
KEY = "75bdfebc0bd0dbb156c1439d4941c61d583d70fd3c85c2c24cb98a3a6510834a"
READING_KEY = "f33d87dc0f8263c85626686a114080fedb1c26f98e0340d9908c9004e64edcef"
_UPGRADE_PROGRAM = """
import json, sys
import django
from django.core.management import call_command

django.setup()
call_command("migrate", verbosity=0)

from rest_framework.test import APIClient

def client(key):
    api = APIClient()
    api.credentials(HTTP_AUTHORIZATION=f"Token {key}", HTTP_HOST="localhost")
    return api

api, reading = map(client, sys.argv[1:])
runs = api.get("/api/tunix/runs?limit=100").json()["data"]
asked = {
    "dataset_key": "sums-v1", "model_id": "preset:tiny-llama", "name": "first check",
    "tags": ["sums", "checked"], "notes": "Before kinds.", "client_request_id": "once",
}
again = api.post("/api/tunix/run", asked, format="json")
print(json.dumps({
    "runs": runs,
    "details": {
        run["name"]: reading.get("/api/tunix/runs/" + run["run_id"]).json() for run in runs
    },
    "trainings": [run["name"] for run in api.get("/api/tunix/runs?mode=local").json()["data"]],
    "tagged": [run["name"] for run in api.get("/api/tunix/runs?tag=sums").json()["data"]],
    "named": [run["name"] for run in api.get("/api/tunix/runs?q=name:check").json()["data"]],
    "again": [again.status_code, again.json()],
    "refused": reading.post("/api/tunix/run", asked, format="json").status_code,
    "totals": [
        line
        for line in api.get("/metrics").content.decode().splitlines()
        if line.startswith("tunix_runs_total{")
    ],
}))
"""


def test_a_database_of_before_is_brought_up_to_date(tmp_path: Path):
    """``databases/before_kinds.sql`` is what SQLite's ``iterdump`` wrote of a database that commit
    8a9b30a had made by itself, in an empty ``TUNIXRT_VAR_DIR``: accounts and tokens by its
    functions, a dataset of eight sums and nine runs over its API, executed by its attendant with
    google-tunix. They are a dry run with tags and notes, one of a model that cannot be trained and
    its retry, one with depth, a training of two steps, one that ran out of time, and one each that
    was cancelled, thrown away, and left waiting.
    """
    dump = Path(__file__).with_name("databases") / "before_kinds.sql"
    with sqlite3.connect(tmp_path / "tunixrt.sqlite3") as database:
        database.executescript(dump.read_text(encoding="utf-8"))
    database.close()
    environment = os.environ | {"TUNIXRT_VAR_DIR": str(tmp_path), "DATABASE_URL": ""}

    found = run_program(_UPGRADE_PROGRAM, KEY, READING_KEY, environment=environment)

    runs, details = found["runs"], found["details"]
    assert [(run["name"], run["mode"], run["status"]) for run in runs] == [
        ("waits", "local", "pending"),
        ("not wanted", "dry-run", "cancelled"),
        ("no time", "local", "timeout"),
        ("two steps", "local", "completed"),
        ("deep check", "dry-run", "completed"),
        ("gpt2 check #2", "dry-run", "failed"),
        ("gpt2 check", "dry-run", "failed"),
        ("first check", "dry-run", "completed"),
    ]
    assert {(run["kind"], details[run["name"]]["kind"]) for run in runs} == {("sft", "sft")}
    assert all(details[run["name"]]["mode"] == run["mode"] for run in runs)
    assert details["gpt2 check #2"]["retry_of"] == details["gpt2 check"]["run_id"]
    assert details["two steps"]["tags"] == ["sums"]
    assert details["two steps"]["output_dir"] == "sums/two-steps"
    assert (details["two steps"]["exit_code"], details["two steps"]["summary"]["steps"]) == (0, 2)
    assert details["deep check"]["plan"]["examples"] == 8
    assert found["trainings"] == ["waits", "no time", "two steps"]
    assert found["tagged"] == ["two steps", "first check"]
    assert found["named"] == [
        "deep check",
        "gpt2 check #2",
        "gpt2 check",
        "first check",
    ]
    # the request is known again: the stored hash of it is still that of the same request
    assert found["again"][0] == 202
    assert found["again"][1]["run_id"] == details["first check"]["run_id"]
    assert found["refused"] == 403
    assert 'tunix_runs_total{mode="local",status="completed"} 1.0' in found["totals"]
