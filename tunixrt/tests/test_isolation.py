"""What the tests stand on: folders and a database of their own, which programs started by a test
see as well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection

from tunixrt.tests.plugin import ROOT


def test_nothing_of_the_developer_is_touched():
    for folder in (settings.TUNIXRT_VAR_DIR, settings.TUNIX_OUTPUT_ROOT):
        assert not Path(folder).is_relative_to(ROOT)
    assert not Path(os.environ["TUNIXRT_ENV_FILE"]).exists()
    assert settings.TUNIXRT_LOCAL_MODE
    assert not settings.DEBUG


@pytest.mark.django_db
def test_the_database_is_the_one_asked_for(pytestconfig: pytest.Config):
    assert connection.vendor == pytestconfig.getoption("database")
    if connection.vendor == "sqlite":
        assert Path(str(connection.settings_dict["NAME"])).parent == settings.TUNIXRT_VAR_DIR
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode")
            assert cursor.fetchone() == ("wal",)


@pytest.mark.django_db(transaction=True)
def test_a_program_started_by_a_test_sees_what_the_test_committed():
    User.objects.create_user("seen-from-outside")

    ended = subprocess.run(
        [
            sys.executable,
            "manage.py",
            "shell",
            "--no-imports",
            "-c",
            "from django.contrib.auth.models import User as U; print(U.objects.get())",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stdout == "seen-from-outside\n", ended.stderr
