"""The PostgreSQL server that tests, failure drills and benchmarks start for themselves."""

import os
from pathlib import Path

import psycopg
import pytest

from tunixrt.tests.postgres import PostgresServer, postgres_server


def ask(server: PostgresServer, query: str):
    with psycopg.connect(server.url()) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def test_a_folder_with_spaces_and_quotes_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Path(os.path.realpath("/tmp")) / f"it's a folder {os.getpid()}"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    try:
        with postgres_server() as server:
            assert ask(server, "show server_encoding") == "UTF8"
            assert Path(ask(server, "show data_directory")).is_relative_to(folder)
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


def test_it_can_be_stopped_crashed_and_started_again_and_keeps_what_was_committed():
    with postgres_server() as server:
        with psycopg.connect(server.url()) as connection:
            connection.execute("create table kept (n int)")
            connection.execute("insert into kept values (7)")
        for mode in ("fast", "immediate"):
            server.stop(mode)
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(server.url())
            server.stop()  # stopped already: nothing happens
            server.start()
            assert ask(server, "select n from kept") == 7


def test_durable_keeps_fsync_on():
    with postgres_server(durable=True) as server:
        assert ask(server, "show fsync") == "on"
    with postgres_server() as server:
        assert ask(server, "show fsync") == "off"
        assert ask(server, "show listen_addresses") == ""  # no port: two test runs never meet
