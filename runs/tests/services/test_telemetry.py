"""/metrics: true for the whole system, right on the next scrape, going on across deletions."""

import logging
import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from runs.lifecycle import count_end
from runs.models import Counter, Host, Run
from runs.models.counter import RUNS, WRITES
from runs.services import deletion, telemetry
from runs.tests.conftest import Submit


def scrape() -> dict[str, float]:
    """Sample → value, of our own families."""
    text = Client().get("/metrics").content.decode()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("tunix_")
    }


def test_the_very_next_scrape_counts_a_run(api: APIClient, body: dict[str, Any]) -> None:
    name = 'tunix_runs_total{mode="dry-run",status="completed"}'
    assert scrape().get(name, 0) == 0
    api.post("/api/tunix/run", body, format="json")
    samples = scrape()
    assert samples[name] == 1
    assert samples["tunix_runs_duration_seconds_count"] == 1
    assert samples["tunix_db_write_latency_ms_count"] == 1  # the run with its end
    api.post("/api/tunix/run", body, format="json")
    assert scrape()[name] == 2


def test_counters_survive_deletion(api: APIClient, body: dict[str, Any], user: User) -> None:
    run = Run.objects.get(pk=api.post("/api/tunix/run", body, format="json").json()["run_id"])
    deletion.trash_run(run=run, by=user)
    run.refresh_from_db()
    deletion.purge_run(run=run, by=run.owner)
    assert not Run.objects.exists()
    assert scrape()['tunix_runs_total{mode="dry-run",status="completed"}'] == 1


def test_several_processes_add_up(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid in (1, 2, 10):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        count_end([("local", 2.0), ("local", None)], status="failed")
    assert Counter.objects.filter(family=RUNS).count() == 2  # 2 and 10 share a row
    samples = scrape()
    assert samples['tunix_runs_total{mode="local",status="failed"}'] == 6
    assert samples["tunix_runs_duration_seconds_count"] == 3
    assert samples["tunix_runs_duration_seconds_sum"] == 6
    assert samples['tunix_runs_duration_seconds_bucket{le="1"}'] == 0
    assert samples['tunix_runs_duration_seconds_bucket{le="5"}'] == 3
    assert samples['tunix_runs_duration_seconds_bucket{le="+Inf"}'] == 3


def test_a_value_beyond_the_last_bound_is_counted(db: None) -> None:
    count_end([("local", 1e9)], status="completed")
    samples = scrape()
    assert samples['tunix_runs_duration_seconds_bucket{le="604800"}'] == 0
    assert samples['tunix_runs_duration_seconds_bucket{le="+Inf"}'] == 1


def test_the_queue_and_the_hosts_are_gauged(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runs.execution.attendant import beat  # noqa: PLC0415 - the attendant's module opens no files until it is used

    run = submit()
    submit(dry_run=True)
    beat()
    now = run.created_at + timedelta(seconds=90)
    host = Host.objects.get()
    assert host.heartbeat_at is not None
    monkeypatch.setattr(timezone, "now", lambda: now)
    samples = scrape()
    assert samples['tunix_queue_depth{mode="local"}'] == 1
    assert samples['tunix_queue_depth{mode="dry-run"}'] == 1
    assert samples['tunix_queue_oldest_pending_seconds{mode="local"}'] == 90.0
    ages = {
        name: value
        for name, value in samples.items()
        if name.startswith("tunix_host_heartbeat_age_seconds")
    }
    age = (now - host.heartbeat_at).total_seconds()
    assert ages == {f'tunix_host_heartbeat_age_seconds{{host="{host.name}"}}': age}


def test_slow_writes_are_logged(
    caplog: pytest.LogCaptureFixture, submit: Submit, settings: LazySettings
) -> None:
    settings.TUNIX_SLOW_WRITE_MS = 0.0
    with caplog.at_level(logging.WARNING, "tunixrt.database"):
        submit()
    assert re.search(r"slow database write: a new run took \d+ ms", caplog.text)


def test_a_measurement_is_counted_once(db: None) -> None:
    telemetry.flush_measured()
    before = scrape()["tunix_db_write_latency_ms_count"]
    with telemetry.measured_write("a test"):
        pass
    telemetry.flush_measured()
    telemetry.flush_measured()
    assert scrape()["tunix_db_write_latency_ms_count"] == before + 1


def test_measurements_are_written_after_a_response_when_it_is_time(
    local_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with telemetry.measured_write("a test"):
        pass
    local_client.get("/healthz")
    assert not Counter.objects.exists()
    monkeypatch.setattr(telemetry, "FLUSH_SECONDS", 0.0)
    local_client.get("/healthz")
    assert [row.count for row in Counter.objects.filter(family=WRITES)] == [1]
    assert not telemetry._measured


def test_our_names_are_there_before_anything_happened(db: None) -> None:
    text = Client().get("/metrics").content.decode()
    for name, kind in (
        ("tunix_runs_total", "counter"),
        ("tunix_runs_duration_seconds", "histogram"),
        ("tunix_db_write_latency_ms", "histogram"),
        ("django_http_requests_before_middlewares_total", "counter"),
    ):
        assert f"# TYPE {name} {kind}" in text
