"""What an owner's runs take on disk: measured once, freed by what removes files; the quota warns
and then refuses."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from runs import tasks
from runs.execution.hosts import this_host
from runs.models import DiskQuota, Run, RunStatus
from runs.queries.artifacts import remove_artifact
from runs.runfolder.tree import bytes_below
from runs.services import disk
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.disk import GB, QuotaExceeded, disk_use, disk_warnings, measure_ended, used_by
from runs.services.finishing import finish_run
from runs.services.handover import hand_over
from runs.services.output_root import root_problem
from runs.services.reservations import run_folder
from runs.services.retention import prune_runs
from runs.services.retrying import retry_run
from runs.tests.conftest import Script, Submit
from runs.tests.leftovers import make_run
from runs.tests.views.test_start import filled
from tunixrt.checks import check_supervision_limits


@pytest.fixture(autouse=True)
def _marked_root(db: None) -> None:
    assert root_problem() is None


def taking(user: User, count: float, **fields: Any) -> Run:
    """An ended run that takes so many bytes."""
    return make_run(user, status=RunStatus.FAILED, disk_bytes=int(count), **fields)


@pytest.fixture
def request_body(body: dict[str, Any], a_training_command: None) -> dict[str, Any]:
    return body | {"dry_run": False}


class TestMeasuring:
    def test_a_training_is_measured_when_it_ends(
        self, api: APIClient, body: dict[str, Any], scripted: Script, user: User
    ) -> None:
        scripted(["put", "model/weights", "x" * 50_000])
        answer = api.post("/api/tunix/run", body | {"dry_run": False}, format="json").json()
        run = Run.objects.get(pk=answer["run_id"])
        assert run.status == RunStatus.COMPLETED
        assert run.disk_bytes is not None
        assert 50_000 < run.disk_bytes <= bytes_below(run_folder(run))
        assert used_by(user) == run.disk_bytes

    def test_a_dry_run_takes_nothing(self, run_dry: Any, user: User) -> None:
        run_dry()
        assert Run.objects.get().disk_bytes == 0

    def test_links_are_not_followed(self, user: User, tmp_path: Path) -> None:
        (tmp_path / "large").write_bytes(b"x" * 10_000)
        run = make_run(user, files={"a": b"x" * 10})
        (run_folder(run) / "link").symlink_to(tmp_path / "large")
        assert bytes_below(run_folder(run)) == 10
        (tmp_path / "folder").symlink_to(run_folder(run))
        assert bytes_below(tmp_path / "folder") == 0
        assert bytes_below(tmp_path / "missing") == 0

    def test_what_frees_the_disk_frees_the_quota(self, user: User, settings: LazySettings) -> None:
        run = make_run(
            user,
            status=RunStatus.FAILED,
            files={"checkpoints/5/x": b"x" * 700, "stdout.log": b"x" * 300},
        )
        Run.objects.update(disk_bytes=1000)
        other = taking(user, 5000)

        remove_artifact(run=run, path="checkpoints/5", by=user)
        assert used_by(user) == 5300
        trash_run(run=run, by=user)
        assert used_by(user) == 5000
        settings.TUNIX_TRASH_HOURS = 0.0
        prune_runs(by=user, max_age=timedelta(seconds=-1))
        prune_runs(by=user)
        assert used_by(user) == 0
        assert not Run.objects.filter(pk=other.pk).exists()

    def test_it_goes_with_the_run_to_another_owner(self, user: User, staff: User) -> None:
        taking(user, 700)
        hand_over(owner=user, to=staff, by=staff)
        assert (used_by(user), used_by(staff)) == (0, 700)

    def test_runs_of_before_are_measured_by_the_task(
        self, user: User, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(5):
            make_run(user, status=RunStatus.FAILED, files={"stdout.log": b"x" * 100 * number})
        make_run(user, status=RunStatus.RUNNING, files={"stdout.log": b"x"})
        monkeypatch.setattr(disk, "MEASURE_BATCH", 2)

        tasks.prune()

        ended = Run.objects.filter(completed_at__isnull=False)
        assert set(ended.values_list("disk_bytes", flat=True)) == {0, 100, 200, 300, 400}
        assert Run.objects.get(status=RunStatus.RUNNING).disk_bytes is None
        assert not OrmQ.objects.exists()
        ended.update(disk_bytes=None)
        monkeypatch.setattr(tasks, "MEASURE_SECONDS", 0.0)
        tasks.measure()
        assert OrmQ.objects.count() == 1  # it goes on by itself

    def test_nothing_is_measured_while_the_output_root_is_away(
        self, user: User, settings: LazySettings
    ) -> None:
        make_run(user, status=RunStatus.FAILED)
        (settings.TUNIX_OUTPUT_ROOT / ".hosts" / "root_id").unlink()
        assert measure_ended(seconds=10.0) is False
        assert Run.objects.get().disk_bytes is None

    def test_the_sum_is_read_from_the_index_alone(self, user: User) -> None:
        """With a million runs a look at each row would take a second, in every request."""
        if connection.vendor == "postgresql":
            pytest.skip("PostgreSQL's plan depends on the statistics; the index is the same")
        with CaptureQueriesContext(connection) as queries:
            used_by(user)
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {queries[0]['sql']}")
            assert "COVERING INDEX ix_tunix_runs_disk" in str(cursor.fetchall())


class TestTheQuota:
    def test_there_is_none_unless_it_is_set(
        self, user: User, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        taking(user, 10**15)
        with django_assert_num_queries(1):
            assert disk_use(user) is None
        assert disk_warnings(user) == []

    def test_it_warns_from_four_fifths_on(
        self,
        api: APIClient,
        user: User,
        settings: LazySettings,
        request_body: dict[str, Any],
        body: dict[str, Any],
    ) -> None:
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 10.0
        run = taking(user, 7.9 * GB)
        before = api.post("/api/tunix/run", body, format="json").json()["warnings"]
        assert not [warning for warning in before if "of disk" in warning]
        Run.objects.filter(pk=run.pk).update(disk_bytes=8 * GB)
        for asked in (body, request_body):
            answer = api.post("/api/tunix/run", asked, format="json")
            assert answer.status_code == 202
            assert answer.json()["warnings"][-1:] == [
                "Your runs take 8.0 GB of the 10.0 GB of disk that they may take (80%). When it is"
                " used up, no new training is taken: delete runs, or remove their checkpoints and"
                " models."
            ]

    def test_when_it_is_used_up_no_training_is_taken(
        self,
        api: APIClient,
        user: User,
        settings: LazySettings,
        request_body: dict[str, Any],
        body: dict[str, Any],
    ) -> None:
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 10.0
        run, _ = taking(user, 9 * GB, config=request_body), taking(user, 1.2 * GB)
        count = Run.objects.count()

        refusals = [
            api.post("/api/tunix/run", request_body, format="json"),
            api.post("/api/tunix/run?mode=async", request_body, format="json"),
            api.post(f"/api/tunix/runs/{run.pk}/retry"),
        ]

        for refusal in refusals:
            assert refusal.status_code == 409
            assert refusal.json()["detail"].startswith(
                "Your runs take 10.2 GB of disk, and they may take 10.0 GB. Nothing was started."
                " Delete runs that you no longer need, or remove their checkpoints and models; the"
                f" largest: {run.name} ({str(run.pk)[:8]}, 9.0 GB), "
            )
        assert Run.objects.count() == count
        dry = api.post("/api/tunix/run", body, format="json").json()
        assert dry["status"] == "completed"
        assert "No new training is taken" in dry["warnings"][-1]

        trash_run(run=run, by=user)
        assert api.post("/api/tunix/run?mode=async", request_body, format="json").status_code == 202

    def test_a_request_that_was_taken_before_is_answered_again(
        self, api: APIClient, user: User, settings: LazySettings, request_body: dict[str, Any]
    ) -> None:
        asked = request_body | {"client_request_id": "mine"}
        first = api.post("/api/tunix/run?mode=async", asked, format="json").json()
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 1.0
        taking(user, 2 * GB)
        assert (
            api.post("/api/tunix/run?mode=async", asked, format="json").json()["run_id"]
            == first["run_id"]
        )

    def test_it_is_the_quota_of_who_asks(
        self, submit: Submit, user: User, staff: User, settings: LazySettings
    ) -> None:
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 1.0
        run = submit()
        taking(user, 2 * GB)
        with pytest.raises(QuotaExceeded):
            submit()
        claim_run(run=run, host=this_host(), by="test")
        finish_run(run=run, status=RunStatus.FAILED, reason="test", by="test")
        assert retry_run(run=run, by=staff).owner == staff

    def test_a_lost_run_says_why_it_is_not_tried_again(
        self, submit: Submit, user: User, settings: LazySettings
    ) -> None:
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 1.0
        run = submit(auto_retry=1)
        taking(user, 2 * GB)
        claim_run(run=run, host=this_host(), by="test")
        finish_run(run=run, status="failed", reason="Lost.", by="test", lost=True)
        assert run.message.startswith("Lost. It is not tried again: Your runs take 2.0 GB of disk")

    @pytest.mark.parametrize(("own", "quota"), [(50.0, 50 * GB), (0.0, None)])
    def test_an_account_may_have_its_own(
        self, user: User, settings: LazySettings, own: float, quota: float | None
    ) -> None:
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 10.0
        DiskQuota.objects.create(account=user, gigabytes=own)
        use = disk_use(user)
        assert (use and use.quota) == quota

    def test_a_negative_one_is_refused_at_start(self, settings: LazySettings) -> None:
        settings.TUNIX_OWNER_DISK_QUOTA_GB = -1.0
        assert "tunixrt.E030" in [found.id for found in check_supervision_limits(None)]


class TestPages:
    def test_the_history_and_the_form_warn(
        self, user: User, remote_client: Client, settings: LazySettings, dataset: Any
    ) -> None:
        remote_client.force_login(user)
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 10.0
        run = taking(user, 5 * GB)
        for path in ("/", "/runs/new"):
            assert "disk-warning" not in remote_client.get(path).content.decode()
        Run.objects.filter(pk=run.pk).update(disk_bytes=9 * GB)
        for path in ("/", "/runs/new"):
            assert (
                "Your runs take 9.0 GB of the 10.0 GB of disk"
                in remote_client.get(path).content.decode()
            )

    def test_the_form_says_why_it_is_refused(
        self,
        user: User,
        remote_client: Client,
        settings: LazySettings,
        request_body: dict[str, Any],
    ) -> None:
        remote_client.force_login(user)
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 1.0
        taking(user, 2 * GB)
        page = remote_client.post(
            "/runs/new",
            filled(remote_client, "?dataset=sums-v1") | {"action": "local", "run_async": "on"},
        )
        assert page.status_code == 409
        assert (
            "Your runs take 2.0 GB of disk, and they may take 1.0 GB. Nothing was started."
            in page.content.decode()
        )

    def test_operators_see_the_use_of_each_owner_and_change_quotas(
        self, user: User, operator: Client, settings: LazySettings
    ) -> None:
        settings.TUNIX_OWNER_DISK_QUOTA_GB = 10.0
        taking(user, 4 * GB)
        taking(user, 3 * GB, trashed_at=timezone.now())
        assert "4.0 GB of 10.0 GB" in operator.get("/admin/auth/user/").content.decode()

        fields = {
            "username": "somebody",
            "is_active": "on",
            "date_joined_0": "2026-01-01",
            "date_joined_1": "00:00:00",
        }
        page = f"/admin/auth/user/{user.pk}/change/"
        for typed, shown in (
            ("25", "4.0 GB of 25.0 GB"),
            ("0", "4.0 GB<"),
            ("", "4.0 GB of 10.0 GB"),
        ):
            assert operator.post(page, fields | {"quota": typed}).status_code == 302
            assert shown in operator.get("/admin/auth/user/").content.decode()
        assert DiskQuota.objects.count() == 0
        assert LogEntry.objects.latest("pk").get_change_message().endswith("Disk quota.")
        assert operator.post(page, fields | {"quota": "-1"}).status_code == 200

    def test_the_list_of_accounts_asks_as_often_for_many_as_for_one(
        self, user: User, operator: Client, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        with CaptureQueriesContext(connection) as one:
            operator.get("/admin/auth/user/")
        for number in range(5):
            taking(User.objects.create_user(f"another-{number}"), GB)
        with django_assert_num_queries(len(one)):
            operator.get("/admin/auth/user/")
