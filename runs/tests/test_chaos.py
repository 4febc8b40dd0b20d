"""A short session of the chaos harness on the database of this test run: everything must be proved (docs/reliability.md)."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.django_db
def test_nothing_is_lost_in_a_short_chaos() -> None:
    session = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.chaos", "--database", connection.vendor),
            *("--minutes", "0.15", "--runs", "40", "--seed", "7", "--pace", "2", "--slots", "2"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert session.returncode == 0, session.stdout + session.stderr
    assert "PROVED" in session.stdout
