"""Every migration is reversible: tried both ways on a database of its own, by what README.md's
rollback does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
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


def test_every_migration_goes_back_and_forth(environment: dict[str, str]):
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *APPS],
        cwd=ROOT,
        env=environment | {"DJANGO_SETTINGS_MODULE": "tunixrt.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    schema = json.loads(ended.stdout)

    assert {"tunix_runs", "datasets_dataset"} <= schema["made"].keys()
    assert not [
        table for table in schema["emptied"] if table.startswith(("tunix", "runs_", "datasets_"))
    ]
    assert schema["made again"] == schema["made"]
