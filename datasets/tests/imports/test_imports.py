"""Imports by a process of their own: complete or not there, whatever ends the process."""

import io
import json
import os
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from datasets.files import folders
from datasets.imports import importing, supervision
from datasets.imports.importers import ImportRequest
from datasets.imports.supervision import Supervisor, remove_leftovers
from datasets.models import Dataset, DatasetItem, Import, Trace
from datasets.services.datasets import create_dataset
from datasets.services.exports import export_lines
from datasets.services.refusals import DatasetExists
from datasets.services.traces import create_traces
from datasets.storage import storing
from datasets.tests.factory import import_upload, jsonl, trace_body, work_on

PATIENCE = 300.0


@pytest.fixture
def submit(user: User) -> Callable[..., Import]:
    def submit(*lines: Any, content: bytes | None = None, **asked: Any) -> Import:
        return importing.submit_file(
            file=io.BytesIO(jsonl(*lines) if content is None else content),
            request=ImportRequest(**({"name": "sums", "version": "v1"} | asked)),
            file_name="sums.jsonl",
            by=user,
        )

    return submit


@pytest.fixture
def supervisor(transactional_db: None) -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    for process in supervisor._processes:
        process.kill()
        process.wait()


def finish(supervisor: Supervisor, row: Import) -> Import:
    """Start what waits, and wait for the end of its process."""
    supervisor.attend()
    for process in supervisor._processes:
        process.wait(PATIENCE)
    row.refresh_from_db()
    return row


def is_nothing_left(row: Import) -> bool:
    return not (
        Trace.objects.exists()
        or DatasetItem.objects.exists()
        or Dataset.with_incomplete.exists()
        or folders.folder_of(row.pk).exists()
    )


def traces(count: int) -> list[dict[str, Any]]:
    return [trace_body(number) for number in range(count)]


class TestOfItsOwn:
    def test_a_process_makes_what_a_request_makes(
        self, supervisor: Supervisor, submit: Callable[..., Import]
    ) -> None:
        row = submit(*traces(30), held_out=5, description="Sums", licence="CC0-1.0", source="us")
        assert (row.state, Dataset.objects.exists()) == ("pending", False)
        finish(supervisor, row)
        assert (row.state, row.problem, row.examples_stored) == ("completed", "", 30)
        in_request = import_upload(
            file=io.BytesIO(jsonl(*traces(30))), name="sums", version="v2", held_out=5
        )
        dataset = Dataset.objects.get(dataset_key="sums-v1")
        for name in ("fingerprint", "stats", "size", "held_out_size", "kind", "format"):
            assert getattr(dataset, name) == getattr(in_request, name), name
        assert (dataset.description, dataset.licence, dataset.source) == ("Sums", "CC0-1.0", "us")
        assert dataset.provenance["imported_by"] == "somebody"
        lines = [json.loads(line) | {"id": ""} for line in export_lines(dataset)]
        assert lines == [json.loads(line) | {"id": ""} for line in export_lines(in_request)]
        assert not folders.folder_of(row.pk).exists()

    def test_the_name_is_taken_from_the_start(
        self, db: None, submit: Callable[..., Import]
    ) -> None:
        submit(trace_body())
        with pytest.raises(DatasetExists, match="is being imported"):
            submit(trace_body())
        with pytest.raises(DatasetExists, match="is being imported"):
            create_dataset(name="sums", version="v1", trace_ids=[], by=None)
        assert Import.objects.count() == 1

    def test_bad_lines_are_said_as_a_request_would_be_told(
        self, db: None, submit: Callable[..., Import]
    ) -> None:
        row = work_on(submit(trace_body(), 42, None, trace_body(1)))
        assert row.state == "failed"
        assert row.problem == "2 lines are not valid, so nothing was stored."
        assert [error["line"] for error in row.detail["errors"]] == [2, 3]
        assert is_nothing_left(row)

    def test_traces_that_others_use_stay_when_it_fails(
        self, db: None, submit: Callable[..., Import], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = submit(*traces(6))
        interrupt(monkeypatch, after=4)
        with pytest.raises(SystemExit):
            work_on(row)
        stored = list(Trace.objects.all())
        assert len(stored) == 4
        create_dataset(name="mine", version="v1", trace_ids=[stored[0].pk], by=None)
        again = next(body for body in traces(6) if body["prompt"] == stored[1].prompt)
        assert create_traces(items=[again], by=None) == [stored[1]]
        importing.cancel_import(row=row, by=row.created_by)
        monkeypatch.undo()
        work_on(row)
        assert row.state == "cancelled"
        assert set(Trace.objects.all()) == {stored[0], stored[1]}
        assert [dataset.dataset_key for dataset in Dataset.with_incomplete.all()] == ["mine-v1"]


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """End the process after the batch with which so many examples are stored."""
    monkeypatch.setattr(storing, "BATCH", 2)
    monkeypatch.setattr(storing, "BATCH_MIN", 2)
    monkeypatch.setattr(storing, "BATCH_MAX", 2)
    note = importing._note

    def stop(row: Import, **progress: Any) -> None:
        if progress.get("examples_stored", 0) > after:
            raise SystemExit
        note(row, **progress)

    monkeypatch.setattr(importing, "_note", stop)


class TestInterrupted:
    def test_while_it_reads_it_begins_again(
        self, supervisor: Supervisor, submit: Callable[..., Import]
    ) -> None:
        row = submit(*traces(3))
        source = folders.folder_of(row.pk) / folders.SOURCE
        content = source.read_bytes()
        source.unlink()
        os.mkfifo(source)
        supervisor.attend()
        (process,) = supervisor._processes
        with source.open("wb"):  # opens once the process has opened its end
            assert supervisor.attend() == 1  # it holds its lock
            assert len(supervisor._processes) == 1
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
        source.unlink()
        source.write_bytes(content)
        finish(supervisor, row)
        assert (row.state, row.examples_stored, row.attempts) == ("completed", 3, 0)
        assert Dataset.objects.get().size == 3

    @pytest.mark.parametrize("after", [0, 4, 8])
    def test_while_it_stores_it_continues(
        self,
        db: None,
        submit: Callable[..., Import],
        monkeypatch: pytest.MonkeyPatch,
        after: int,
    ) -> None:
        row = submit(*traces(9))
        interrupt(monkeypatch, after=after)
        with pytest.raises(SystemExit):
            work_on(row)
        row.refresh_from_db()
        assert (row.state, row.phase, row.examples_stored) == ("pending", "storing", after)
        assert (DatasetItem.objects.count(), Dataset.objects.exists()) == (after, False)
        (folders.folder_of(row.pk) / folders.SOURCE).unlink()  # is not read again
        monkeypatch.undo()
        work_on(row)
        assert row.state == "completed"
        dataset = Dataset.objects.get()
        assert [json.loads(line)["final_answer"] for line in export_lines(dataset)] == [
            str(number + 1) for number in range(9)
        ]

    @pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "of another version"])
    def test_a_staging_that_cannot_be_continued_is_made_again(
        self,
        db: None,
        submit: Callable[..., Import],
        monkeypatch: pytest.MonkeyPatch,
        damaged: bool,
    ) -> None:
        row = submit(*traces(9))
        interrupt(monkeypatch, after=4)
        with pytest.raises(SystemExit):
            work_on(row)
        path = folders.folder_of(row.pk) / folders.STAGING
        if damaged:
            path.write_bytes(b"SQLite format 3\0 and no more")
        else:
            with closing(sqlite3.connect(path, isolation_level=None)) as file:
                file.execute("PRAGMA user_version = 1")
                file.execute("DELETE FROM staged WHERE position = 8")
        monkeypatch.undo()
        work_on(row)
        assert (row.state, DatasetItem.objects.count()) == ("completed", 9)

    def test_within_a_request_nothing_stays(
        self, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after a kill of the server: what a request undoes on its way out is left."""
        with monkeypatch.context() as patch:
            patch.setattr(importing, "BATCH", 2)
            interrupt(patch, after=4)
            patch.setattr(importing, "_undo", lambda *args, **more: None)
            patch.setattr(Import, "delete", lambda row: None)
            patch.setattr(folders, "remove_folder", lambda *args, **more: None)
            with pytest.raises(SystemExit):
                import_upload(file=io.BytesIO(jsonl(*traces(9))), name="sums", version="v1")
        row = Import.objects.get()
        assert (row.state, DatasetItem.objects.count()) == ("running", 4)
        finish(supervisor, row)
        assert (row.state, row.dataset) == ("failed", None)
        assert "The server stopped" in row.problem
        assert is_nothing_left(row)

    def test_again_and_again_it_fails_with_the_last_words(
        self, db: None, submit: Callable[..., Import]
    ) -> None:
        row = submit(*traces(2))
        Import.objects.update(attempts=importing.MAX_ATTEMPTS + 1)
        (folders.folder_of(row.pk) / folders.LOG).write_text("Traceback\nMemoryError: all\n")
        work_on(row)
        assert row.state == "failed"
        assert row.problem.endswith("It said: MemoryError: all")
        assert is_nothing_left(row)

    def test_one_that_is_killed_again_and_again_quotes_nothing_else(
        self, supervisor: Supervisor, submit: Callable[..., Import], settings: LazySettings
    ) -> None:
        row = submit(*traces(3))
        settings.TUNIX_OUTPUT_ROOT.chmod(0o755)  # which a check of the system warns about
        source = folders.folder_of(row.pk) / folders.SOURCE
        source.unlink()
        os.mkfifo(source)
        (folders.folder_of(row.pk) / folders.LOG).write_text("what an earlier one said\n")
        supervisor.attend()
        (process,) = supervisor._processes
        with source.open("wb"):  # opens once the process has opened its end
            process.kill()
            process.wait(PATIENCE)
        Import.objects.update(attempts=importing.MAX_ATTEMPTS + 1)
        work_on(row)
        assert row.problem == (
            "The process ended 5 times without an answer. Something else ended it, such as a lack"
            " of memory."
        )

    def test_without_its_folder_it_fails(
        self, supervisor: Supervisor, submit: Callable[..., Import]
    ) -> None:
        row = submit(*traces(2))
        folders.remove_folder(row.pk)
        supervisor.attend()
        row.refresh_from_db()
        assert (row.state, "are gone" in row.problem) == ("failed", True)
        assert is_nothing_left(row)

    def test_folders_without_a_row_are_removed_when_they_are_old(
        self, db: None, submit: Callable[..., Import], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = submit(*traces(2))
        old, held = uuid.uuid4(), uuid.uuid4()
        for import_id in (old, held):
            folders.make_folder(import_id)
        lock = folders.try_lock(held)
        remove_leftovers()
        assert folders.folder_of(old).exists()
        monkeypatch.setattr(supervision, "LEFTOVER_SECONDS", -1.0)
        remove_leftovers()
        found = {entry.name for entry in folders.imports_folder().iterdir()}
        assert found == {str(held), str(row.pk)}
        assert lock is not None
        os.close(lock)


class TestPlaces:
    def test_others_wait(
        self, supervisor: Supervisor, submit: Callable[..., Import], settings: LazySettings
    ) -> None:
        settings.TUNIXRT_IMPORTS_AT_ONCE = 1
        first, second = submit(*traces(2)), submit(*traces(2), version="v2")
        source = folders.folder_of(first.pk) / folders.SOURCE
        content = source.read_bytes()
        source.unlink()
        os.mkfifo(source)
        assert supervisor.attend() == 1
        with source.open("wb") as pipe:
            assert supervisor.attend() == 1
            second.refresh_from_db()
            assert second.state == "pending"
            pipe.write(content)
        finish(supervisor, second)
        finish(supervisor, second)
        first.refresh_from_db()
        assert (first.state, second.state) == ("completed", "completed")

    def test_of_one_account_are_bounded(
        self, db: None, submit: Callable[..., Import], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importing, "UNDER_WAY_MAX", 1)
        submit(trace_body())
        with pytest.raises(importing.TooMany):
            submit(trace_body(), version="v2")


class TestSkipBad:
    def test_lines_are_left_out_up_to_the_share(
        self, db: None, submit: Callable[..., Import]
    ) -> None:
        row = submit(*traces(8), content=jsonl(*traces(8), 42) + b"{\xff\n", skip_bad=0.2)
        work_on(row)
        assert (row.state, row.lines_skipped, row.examples_stored) == ("completed", 2, 8)
        assert Dataset.objects.get().provenance["lines_skipped"] == 2
        with importing.open_skipped(row) as file:
            skipped = [json.loads(line) for line in file]
        assert [line["line"] for line in skipped] == [9, 10]
        assert [line["content"] for line in skipped] == ["42", "{\ufffd"]
        assert skipped[0]["reason"].startswith("is a number, not an object")

    def test_more_are_refused(self, db: None, submit: Callable[..., Import]) -> None:
        row = work_on(submit(*traces(8), 42, 43, skip_bad=0.19))
        assert row.state == "failed"
        assert row.problem == (
            "2 lines are not valid, so nothing was stored (19.00% of 10 may be left out)."
        )
        assert not Dataset.with_incomplete.exists()


class TestFaces:
    @pytest.fixture
    def api(self, user: User) -> APIClient:
        client = APIClient(REMOTE_ADDR="192.0.2.1")
        client.force_authenticate(user)
        return client

    def post(self, api: APIClient, content: bytes, **query: str) -> Any:
        fields = {"name": "sums", "version": "v1", "mode": "async"} | query
        return api.generic(
            "POST",
            "/api/datasets/ingest?" + "&".join(f"{name}={value}" for name, value in fields.items()),
            content,
            content_type="application/x-ndjson",
        )

    def test_the_api_answers_at_once_and_says_how_far_it_is(self, db: None, api: APIClient) -> None:
        answer = self.post(api, jsonl(*traces(4), 5), skip_bad="0.5")
        assert answer.status_code == 202
        made = answer.json()
        assert (made["state"], made["dataset_key"]) == ("pending", "sums-v1")
        assert made["bytes_total"] == len(jsonl(*traces(4), 5))
        address = f"/api/datasets/imports/{made['id']}"
        work_on(Import.objects.get())
        found = api.get(address).json()
        assert (found["state"], found["examples_stored"]) == ("completed", 4)
        assert [row["id"] for row in api.get("/api/datasets/imports").json()["data"]] == [
            made["id"]
        ]
        assert api.get("/api/datasets/imports?state=failed").json()["data"] == []
        skipped = api.get(f"{address}/skipped.jsonl")
        assert json.loads(b"".join(skipped.streaming_content))["line"] == 5
        assert api.delete(address).status_code == 409

    def test_it_is_cancelled(self, db: None, api: APIClient) -> None:
        address = f"/api/datasets/imports/{self.post(api, jsonl(*traces(4))).json()['id']}"
        assert api.delete(address).status_code == 202
        assert api.delete(address).status_code == 202
        row = work_on(Import.objects.get())
        assert (row.state, is_nothing_left(row)) == ("cancelled", True)
        assert api.delete(address).json()["detail"] == "The import is cancelled already."

    def test_others_do_not_cancel_it(self, db: None, api: APIClient) -> None:
        address = f"/api/datasets/imports/{self.post(api, jsonl(trace_body())).json()['id']}"
        api.force_authenticate(User.objects.create_user("other"))
        assert api.get(address).status_code == 200
        assert api.delete(address).status_code == 403
        assert Import.objects.get().cancel_requested_at is None

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            (f"/api/datasets/imports/{uuid.UUID(int=7)}", 404),
            (f"/api/datasets/imports/{uuid.UUID(int=7)}/skipped.jsonl", 404),
            ("/api/datasets/imports/seven", 422),
            ("/api/datasets/imports?state=lost", 422),
        ],
    )
    def test_what_is_not_there(self, db: None, api: APIClient, path: str, status: int) -> None:
        assert api.get(path).status_code == status

    def test_another_mode_is_named(self, db: None, api: APIClient) -> None:
        answer = self.post(api, jsonl(trace_body()), mode="later")
        assert (answer.status_code, "mode" in answer.json()) == (400, True)

    def test_the_page_follows_an_import_to_its_end(
        self, local_client: Client, submit: Callable[..., Import]
    ) -> None:
        row = submit(*traces(4))
        page = local_client.get(f"/datasets/imports/{row.pk}").content.decode()
        assert "Waiting for a process" in page
        assert "hx-trigger" in page
        Import.objects.update(state="running", phase="reading", bytes_total=200, bytes_read=50)
        page = local_client.get(f"/datasets/imports/{row.pk}").content.decode()
        assert 'value="25"' in page
        Import.objects.update(phase="storing", examples_read=4, examples_stored=3)
        page = local_client.get(f"/datasets/imports/{row.pk}").content.decode()
        assert "Storing: 3 of 4 examples" in page
        Import.objects.update(phase="reading", examples_read=0, examples_stored=0)
        work_on(row)
        page = local_client.get(f"/datasets/imports/{row.pk}").content.decode()
        assert 'href="/datasets/sums-v1"' in page
        assert "hx-trigger" not in page
        import_upload(file=io.BytesIO(jsonl(*traces(2))), name="sums", version="v2")
        page = local_client.get("/datasets/imports").content.decode()
        assert page.count('data-testid="import-row"') == 2
        assert "sums.jsonl" in page

    def test_the_page_cancels(self, local_client: Client, submit: Callable[..., Import]) -> None:
        row = submit(*traces(4))
        answer = local_client.post(f"/datasets/imports/{row.pk}/cancel", follow=True)
        assert "being cancelled" in answer.content.decode()
        assert work_on(row).state == "cancelled"
        assert local_client.post(f"/datasets/imports/{row.pk}/cancel").status_code == 409

    def test_a_large_upload_is_handed_to_a_process(
        self, local_client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("datasets.views.uploads.IN_REQUEST_BYTES", 10)
        file = tmp_path / "sums.jsonl"
        file.write_bytes(jsonl(*traces(4)))
        with file.open("rb") as upload:
            answer = local_client.post(
                "/datasets/new", {"file": upload, "name": "sums", "version": "v1"}
            )
        row = Import.objects.get()
        assert answer["Location"] == f"/datasets/imports/{row.pk}"
        assert work_on(row).state == "completed"
