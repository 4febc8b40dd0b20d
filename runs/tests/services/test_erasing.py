"""Erasing: the content of an example goes everywhere, its place stays, and nothing brings it
back."""

import io
import json
import os
import sqlite3
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.conf import LazySettings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from datasets.cleaning.derivation import derive
from datasets.cleaning.recipe import parse_recipe
from datasets.comparison.overlaps import compute_overlap
from datasets.files import folders
from datasets.imports import importing
from datasets.imports.importers import BadLines, ImportRequest
from datasets.imports.importing import import_file, submit_derivation, submit_file
from datasets.models import Dataset, Erasure, Import, ImportState, Trace
from datasets.services import erasing as datasets_erasing
from datasets.services.datasets import create_dataset
from datasets.services.exports import export_lines
from datasets.services.refusals import InvalidDataset, InvalidTraces
from datasets.services.traces import create_traces
from datasets.storage import storing
from datasets.tests.factory import jsonl_file, work_on
from runs.execution.hosts import this_host
from runs.models import Run, RunEvent
from runs.runfolder import files, names
from runs.services import erasing
from runs.services.claiming import claim_run
from runs.services.erasing import affected_by, continue_erasure, erase
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.tests.conftest import Script, Submit
from runs.tests.launching import wait_for
from tunixrt.refusals import Conflict, NotAllowed
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
SECRET = "Ada Lovelace lives in St James's Square"
URL = "/api/erasures"
LINES = [
    {"prompt": "0+1=?", "completion": "1"},
    {"prompt": SECRET, "completion": "2"},
    {"prompt": "2+1=?", "completion": "3"},
]


@pytest.fixture
def operator(user: User) -> User:
    set_role(user=user, role=Role.OPERATOR)
    return user


def file_dataset(by: User, version: str = "v1", lines: list[Any] = LINES, **asked: Any) -> Dataset:
    return import_file(
        file=jsonl_file(*lines),
        request=ImportRequest(name="people", version=version, **asked),
        file_name="people.jsonl",
        by=by,
    )


def answered(question: str, answer: str) -> dict[str, Any]:
    return {"prompt": question, "final_answer": answer, "steps": []}


def in_both_forms(question: str, answer: str) -> list[dict[str, Any]]:
    """The same example with composed characters, and with marks that combine."""
    return [
        answered(unicodedata.normalize(form, question), unicodedata.normalize(form, answer))
        for form in ("NFC", "NFD")
    ]


def chat(question: str, answer: str, **more: str) -> dict[str, Any]:
    said = {"role": "assistant", "content": answer} | more
    return {"messages": [{"role": "user", "content": question}, said]}


def secret_trace() -> Trace:
    return Trace.objects.get(prompt=SECRET)


@pytest.fixture
def train(api: APIClient, scripted: Script, operator: User) -> Callable[..., Run]:
    """Trains in the request, in a real run folder, which holds what trainings leave then."""

    def make(key: str = "people-v1") -> Run:
        scripted(["put", names.RESULT, "{}"])
        asked = {"dataset_key": key, "model_id": "preset:tiny-llama", "dry_run": False}
        answer = api.post("/api/tunix/run", asked, format="json")
        assert answer.status_code == 202 and answer.json()["status"] == "completed", answer.content
        run = Run.objects.get(pk=answer.json()["run_id"])
        # by the script they would be in command.json, too
        rollout = json.dumps({"example_id": str(secret_trace().pk), "text": SECRET})
        seen = {"examples": [{"tokens": [SECRET], "length": 1, "learnt": [[0, 1]]}]}
        result = {"samples": [{"prompt": SECRET, "after": "x"}]}
        folder = run_folder(run)
        # the answer does not wait for the keeper, which ends after its training
        os.close(wait_for(lambda: files.try_lock(folder / names.LOCK), "the keeper's end"))
        (folder / "rollouts").mkdir()
        (folder / "rollouts/0.jsonl").write_text(f'{rollout}\n{{"example_id": "other"}}\n')
        (folder / names.SEEN).write_text(json.dumps(seen))
        (folder / names.RESULT).write_text(json.dumps(result))
        Run.objects.filter(pk=run.pk).update(summary=run.summary | result)
        return run

    return make


def places_of(text: str, *folders_: Path) -> list[str]:
    """Where the text stands: every column of every row of every table, and every file."""
    found = []
    for model in apps.get_models(include_auto_created=True):
        for row in model._base_manager.values():
            found += [
                f"{model.__name__}.{name}" for name, value in row.items() if text in str(value)
            ]
    for folder in folders_:
        found += [
            str(path)
            for path in folder.rglob("*")
            if path.is_file() and text.encode() in path.read_bytes()
        ]
    return found


class TestEverywhere:
    def test_the_content_goes_from_database_and_files_and_the_rest_stays(
        self,
        operator: User,
        train: Callable[..., Run],
        api: APIClient,
        output_root: Path,
        settings: LazySettings,
        tmp_path: Path,
    ) -> None:
        settings.TUNIXRT_VAR_DIR = tmp_path / "var"
        tokens = tmp_path / "var" / "cache" / "tokens" / "key"
        tokens.mkdir(parents=True)
        (tokens / "tokens.bin").write_text(SECRET)
        # a line that is left out is kept in the folder of the import
        dataset = file_dataset(operator, lines=[*LINES, {"nonsense": SECRET}], skip_bad=0.5)
        create_dataset(name="b", version="v1", trace_ids=[secret_trace().pk] * 2, by=operator)
        compute_overlap(Dataset.objects.get(name="b"), dataset, by=operator)
        recipe = parse_recipe({"steps": [{"operation": "length", "max": 20}]})
        work_on(
            submit_derivation(
                recipe=recipe, parents=[dataset], name="people", version="v2", by=operator
            )
        )
        failed = submit_file(
            file=jsonl_file(*LINES, {"nonsense": SECRET}),
            request=ImportRequest(name="people", version="v9", skip_bad=0.01),
            file_name="",
            by=operator,
        )
        assert work_on(failed).state == ImportState.FAILED
        Import.objects.filter(pk=failed.pk).update(dataset_key="people-v1")
        run, trashed = train(), train()
        Run.objects.filter(pk=trashed.pk).update(trashed_at=trashed.completed_at)
        trace = secret_trace()
        kept = Trace.objects.exclude(pk=trace.pk).order_by("pk")
        before = list(kept.values())
        assert {Path(place).name for place in places_of(SECRET, output_root, tmp_path / "var")} >= {
            *("Trace.prompt", "Run.summary", "tokens.bin"),
            *(names.DATASET, names.SEEN, names.RESULT, "0.jsonl", folders.SKIPPED),
        }

        asked = {"trace_ids": [str(trace.pk)]}
        shown = api.post(URL, asked, format="json").json()
        assert shown["erasure"] is None
        affected = shown["affected"]
        assert affected["traces"] == 1
        assert sorted(affected["datasets"]) == ["b-v1", "people-v1"]
        assert set(affected["runs"]) == {str(run.pk), str(trashed.pk)}
        assert (affected["model_count"], affected["skipped_files"]) == (2, 2)
        assert affected["derived"] == ["people-v2"]
        assert places_of(SECRET) != []  # looking changes nothing

        answer = api.post(URL, asked | {"confirm": 1}, format="json")
        assert answer.status_code == 200, answer.content
        assert answer.json()["erasure"]["completed_at"]
        assert places_of(SECRET, output_root, tmp_path / "var") == []
        fingerprint = dataset.fingerprint
        dataset.refresh_from_db()
        assert (dataset.size, dataset.erased_size, dataset.fingerprint) == (3, 1, fingerprint)
        assert Dataset.objects.get(name="b").erased_size == 2
        gone = Trace.objects.get(pk=trace.pk)
        assert gone.erased_at is not None
        assert (gone.content_hash, gone.kind) == (trace.content_hash, trace.kind)
        assert list(kept.values()) == before
        assert [item.trace_id == trace.pk for item in dataset.items.order_by("position")] == [
            *(False, True, False),
        ]
        data = (run_folder(run) / names.DATASET).read_text().splitlines()
        assert len(data) == 2
        assert (run_folder(run) / "rollouts/0.jsonl").read_text() == '{"example_id": "other"}\n'
        reasons = RunEvent.objects.filter(run=run).values_list("reason", flat=True)
        assert any(reason.startswith("examples erased") for reason in reasons)
        told = list(LogEntry.objects.values_list("change_message", flat=True))
        assert any("erases the content of 1 examples" in message for message in told)
        again = api.post(URL, asked, format="json").json()["affected"]
        assert (again["already_erased"], again["skipped_files"]) == (1, 0)

    def test_pages_and_answers_say_that_it_was_erased(
        self, operator: User, api: APIClient, client: Client
    ) -> None:
        chat = {
            "messages": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": "x"}]
        }
        pair = {"prompt": SECRET, "chosen": "a", "rejected": "b"}
        prompt = {"kind": "prompt", "prompt": SECRET}
        client.force_login(operator)
        for number, item in enumerate((chat, pair, prompt)):
            trace = create_traces(items=[item], by=operator)[0]
            create_dataset(name="one", version=f"v{number}", trace_ids=[trace.pk], by=operator)
            affected = affected_by(trace_ids=[trace.pk], by=operator)
            erase(affected=affected, confirmed=1, by=operator)
            body = api.get(f"/api/traces/{trace.pk}").json()
            assert body["erased_at"] and body["content"] is None and body["prompt"] == ""
            page = client.get(f"/traces/{trace.pk}").content.decode()
            assert 'data-testid="erased"' in page
            page = client.get(f"/datasets/one-v{number}").content.decode()
            assert 'data-testid="has-erased"' in page and 'data-testid="erased"' in page
            manifest = api.get(f"/api/datasets/one-v{number}").json()
            assert (manifest["size"], manifest["erased_size"]) == (1, 1)
            rendered = api.get(
                f"/api/traces/{trace.pk}/rendered", {"model_id": "preset:tiny-llama"}
            )
            assert (rendered.status_code, rendered.json()["detail"]) == (
                404,
                f"The content of trace {trace.pk} was erased.",
            )
            assert client.get(f"/traces/{trace.pk}/look").status_code == 404
            another = json.loads(json.dumps(item).replace(SECRET, f"{SECRET}, too"))
            other = create_traces(items=[another], by=operator)
            create_dataset(name="two", version=f"v{number}", trace_ids=[other[0].pk], by=operator)
            affected = affected_by(trace_ids=[other[0].pk], by=operator)
            erase(affected=affected, confirmed=1, by=operator)
            diff = api.get(f"/api/datasets/one-v{number}/diff", {"to": f"two-v{number}"}).json()
            # what was erased resembles nothing
            counts = diff["counts"]
            assert (counts["changed"], counts["removed"], counts["added"]) == (0, 1, 1)
            compared = client.get(f"/datasets/one-v{number}/diff", {"to": f"two-v{number}"})
            assert compared.status_code == 200
            assert client.get("/traces").status_code == 200
            assert api.get("/api/traces").status_code == 200

    def test_exports_and_recipes_leave_it_out_and_a_new_run_says_so(
        self, operator: User, train: Callable[..., Run], api: APIClient
    ) -> None:
        dataset = file_dataset(operator)
        trace = secret_trace()
        erase(affected=affected_by(trace_ids=[trace.pk], by=operator), confirmed=1, by=operator)
        assert len(list(export_lines(dataset))) == 2
        dataset.refresh_from_db()
        derivation = derive({"steps": [{"operation": "exact_duplicates"}]}, [dataset])
        assert len(list(derivation.examples())) == 2
        assert derivation.report()["erased"] == 1
        asked = {"dataset_key": "people-v1", "model_id": "preset:tiny-llama"}
        answer = api.post("/api/tunix/run", asked, format="json").json()
        assert answer["status"] == "completed"
        assert any(
            "1 of the 3 examples of people-v1 were erased" in one for one in answer["warnings"]
        )
        manifest = api.get(f"/api/tunix/runs/{answer['run_id']}/manifest").content.decode()
        assert "examples: 2" in manifest
        with pytest.raises(InvalidDataset, match="The content of these was erased"):
            create_dataset(name="x", version="v1", trace_ids=[trace.pk], by=operator)

    def test_a_dataset_without_anything_left_cannot_be_trained(
        self, operator: User, api: APIClient
    ) -> None:
        file_dataset(operator)
        answer = api.post(URL, {"dataset_key": "people-v1"}, format="json").json()
        assert answer["affected"]["traces"] == 3
        done = api.post(URL, {"dataset_key": "people-v1", "confirm": 3}, format="json")
        assert done.status_code == 200
        asked = {"dataset_key": "people-v1", "model_id": "preset:tiny-llama"}
        run = api.post("/api/tunix/run", asked, format="json").json()
        assert run["status"] == "failed"
        assert "none to train on (3 were erased)" in run["message"]
        nothing = api.post(URL, {"dataset_key": "people-v1"}, format="json")
        assert nothing.json()["affected"]["traces"] == 0
        confirmed = {"dataset_key": "people-v1", "confirm": 0}
        assert api.post(URL, confirmed, format="json").status_code == 400

    def test_of_a_dataset_only_what_no_other_one_uses_goes(self, operator: User) -> None:
        dataset = file_dataset(operator)
        create_dataset(name="b", version="v1", trace_ids=[secret_trace().pk], by=operator)
        affected = erasing.affected_of_dataset(dataset=dataset, by=operator)
        assert secret_trace().pk not in affected.trace_ids and affected.count == 2


class TestComingBack:
    @pytest.fixture
    def erased(self, operator: User) -> UUID:
        file_dataset(operator)
        trace = secret_trace()
        erase(affected=affected_by(trace_ids=[trace.pk], by=operator), confirmed=1, by=operator)
        return trace.pk

    def test_the_same_line_is_refused_by_its_number(self, operator: User, erased: UUID) -> None:
        with pytest.raises(BadLines) as caught:
            file_dataset(operator, "v2")
        problems = [(each.line, each.reason) for each in caught.value.problems]
        assert problems == [(2, storing.WAS_ERASED)]
        assert not Dataset.objects.filter(version="v2").exists()
        assert not Trace.objects.filter(prompt=SECRET).exists()

    def test_or_left_out_counted_and_not_kept(
        self, operator: User, erased: UUID, output_root: Path
    ) -> None:
        dataset = file_dataset(operator, "v2", skip_bad=0.5)
        assert (dataset.size, dataset.erased_size) == (2, 0)
        row = Import.objects.get(dataset=dataset)
        assert row.lines_skipped == 1
        skipped = (folders.folder_of(row.pk) / folders.SKIPPED).read_text()
        assert storing.WAS_ERASED in skipped and "Ada" not in skipped
        assert places_of(SECRET, output_root) == []

    def test_the_api_refuses_it_and_stores_nothing_beside_it(
        self, api: APIClient, erased: UUID
    ) -> None:
        count = Trace.objects.count()
        items = [
            {"prompt": "new", "steps": [], "final_answer": "1"},
            {"prompt": SECRET, "steps": [], "final_answer": "2"},
        ]
        with pytest.raises(InvalidTraces) as caught:
            create_traces(items=items, by=None)
        assert list(caught.value.errors) == [1]
        answer = api.post("/api/traces", items, format="json")
        assert answer.status_code == 400 and storing.WAS_ERASED in answer.content.decode()
        assert Trace.objects.count() == count

    def test_an_import_that_had_read_it_before_fails(
        self, operator: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file_dataset(operator)
        trace = secret_trace()
        row = submit_file(
            file=jsonl_file(*LINES),
            request=ImportRequest(name="people", version="v2"),
            file_name="",
            by=operator,
        )
        store = importing.store

        # between reading and storing
        def erase_first(*args: Any, **options: Any) -> None:
            affected = affected_by(trace_ids=[trace.pk], by=operator)
            erase(affected=affected, confirmed=1, by=operator)
            store(*args, **options)

        monkeypatch.setattr(importing, "store", erase_first)
        work_on(row)
        assert row.state == ImportState.FAILED
        assert "1 of the examples were erased" in row.problem
        assert not Dataset.with_incomplete.filter(version="v2").exists()
        assert places_of(SECRET) == []


class TestInterrupted:
    def test_what_was_killed_between_two_runs_continues(
        self,
        operator: User,
        train: Callable[..., Run],
        output_root: Path,
        monkeypatch: pytest.MonkeyPatch,
        client: Client,
    ) -> None:
        file_dataset(operator)
        trace = secret_trace()
        train()
        train()
        real, calls = erasing.erase_examples, []

        def killed(*args: Any) -> int:
            calls.append(args)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(erasing, "erase_examples", killed)
        affected = affected_by(trace_ids=[trace.pk], by=operator)
        with pytest.raises(KeyboardInterrupt):
            erase(affected=affected, confirmed=1, by=operator)
        erasure = Erasure.objects.get()
        assert erasure.completed_at is None and erasure.runs_done == 1
        left = places_of(SECRET, output_root)
        assert left and all(place.startswith(("/", "Run.summary")) for place in left)
        client.force_login(operator)
        page = client.get(f"/erasures/{erasure.pk}").content.decode()
        assert 'data-testid="incomplete"' in page
        monkeypatch.setattr(erasing, "erase_examples", real)
        assert client.post(f"/erasures/{erasure.pk}/continue").status_code == 302
        erasure.refresh_from_db()
        assert erasure.completed_at is not None and erasure.runs_done == 2
        assert places_of(SECRET, output_root) == []
        assert continue_erasure(erasure=erasure, by=operator).runs_done == 2

    def test_a_request_stops_after_a_while_and_the_command_does_the_rest(
        self, operator: User, train: Callable[..., Run], output_root: Path, api: APIClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        file_dataset(operator)
        trace = secret_trace()
        train()
        monkeypatch.setattr(erasing, "SECONDS", 0.0)
        monkeypatch.setattr(erasing.continue_erasure, "__kwdefaults__", {"seconds": 0.0})
        asked = {"trace_ids": [str(trace.pk)], "confirm": 1}
        answer = api.post(URL, asked, format="json")
        assert answer.status_code == 202
        state = answer.json()["erasure"]
        assert state["problem"] == "Files of 1 runs are left: continue."
        assert api.get(f"{URL}/{state['id']}").json()["completed_at"] is None
        out = io.StringIO()
        call_command("continue_erasures", stdout=out)
        assert "complete" in out.getvalue()
        assert places_of(SECRET, output_root) == []

    def test_a_run_that_a_process_still_has_waits(
        self, operator: User, train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file_dataset(operator)
        trace = secret_trace()
        run = train()
        lock = files.try_lock(run_folder(run) / names.LOCK)
        assert lock is not None
        affected = affected_by(trace_ids=[trace.pk], by=operator)
        erasure = erase(affected=affected, confirmed=1, by=operator)
        assert erasure.problem == f"A process of run {run.pk} still has its folder."
        assert erasure.waiting == [str(run.pk)]
        with pytest.raises(CommandError):
            call_command("continue_erasures", stderr=io.StringIO())
        os.close(lock)
        assert continue_erasure(erasure=erasure, by=operator).completed_at is not None
        assert SECRET not in (run_folder(run) / names.DATASET).read_text()

    def test_an_output_root_that_is_away_ends_nothing(
        self, operator: User, train: Callable[..., Run], output_root: Path
    ) -> None:
        file_dataset(operator)
        trace = secret_trace()
        train()
        away = output_root.with_name("elsewhere")
        output_root.rename(away)
        affected = affected_by(trace_ids=[trace.pk], by=operator)
        erasure = erase(affected=affected, confirmed=1, by=operator)
        assert erasure.completed_at is None and "output root" in erasure.problem
        away.rename(output_root)
        assert continue_erasure(erasure=erasure, by=operator).completed_at is not None
        assert places_of(SECRET, output_root) == []


class TestRefused:
    def test_while_a_run_on_it_is_executing(
        self, operator: User, submit: Submit, dataset: Dataset, api: APIClient, client: Client
    ) -> None:
        run = submit()
        claim_run(run=run, host=this_host(), by="test")
        trace = Trace.objects.filter(items__dataset=dataset)[0]
        asked = {"trace_ids": [str(trace.pk)], "confirm": 1}
        answer = api.post(URL, asked, format="json")
        assert answer.status_code == 409
        assert str(run.pk) in answer.json()["detail"]
        with pytest.raises(StateConflict):
            erase(affected=affected_by(trace_ids=[trace.pk], by=operator), confirmed=1, by=operator)
        client.force_login(operator)
        page = client.get(f"/erasures/new?trace={trace.pk}").content.decode()
        assert 'data-testid="executing"' in page
        trace.refresh_from_db()
        assert trace.prompt and not Erasure.objects.exists()

    def test_if_another_number_was_confirmed(self, operator: User, dataset: Dataset) -> None:
        ids = list(Trace.objects.values_list("pk", flat=True))
        affected = affected_by(trace_ids=ids, by=operator)
        for confirmed in (0, 1, 4):
            with pytest.raises(Conflict):
                erase(affected=affected, confirmed=confirmed, by=operator)
        assert not Trace.objects.exclude(erased_at=None).exists()

    def test_to_all_but_operators(self, user: User, dataset: Dataset, client: Client) -> None:
        Dataset.objects.update(created_by=user)
        trace = Trace.objects.all()[0]
        made = Erasure.objects.create(trace_ids=[])
        for role in (Role.VIEWER, Role.RESEARCHER):
            set_role(user=user, role=role)
            client.force_login(user)
            api = APIClient()
            api.force_authenticate(user)
            asked = {"trace_ids": [str(trace.pk)], "confirm": 1}
            assert api.post(URL, asked, format="json").status_code == 403
            assert api.post(URL, {"dataset_key": "sums-v1"}, format="json").status_code == 403
            assert api.get(f"{URL}/{made.pk}").status_code == 403
            assert api.post(f"{URL}/{made.pk}").status_code == 403
            assert client.get("/erasures/new").status_code == 403
            assert client.post("/erasures/new", {"trace_ids": trace.pk}).status_code == 403
            assert client.get(f"/erasures/{made.pk}").status_code == 403
            assert client.post(f"/erasures/{made.pk}/continue").status_code == 403
            with pytest.raises(NotAllowed):
                affected_by(trace_ids=[trace.pk], by=user)
            assert "to-erase" not in client.get(f"/traces/{trace.pk}").content.decode()
        trace.refresh_from_db()
        assert trace.erased_at is None

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"trace_ids": []},
            {"trace_ids": "x"},
            {"trace_ids": ["../../etc"]},
            {"trace_ids": [1]},
            {"trace_ids": [str(uuid4())], "dataset_key": "sums-v1"},
            {"trace_ids": [str(uuid4())]},
            {"trace_ids": [str(uuid4())], "confirm": True},
            {"trace_ids": [str(uuid4())], "confirm": "1"},
            {"all": True},
        ],
    )
    def test_a_body_that_is_wrong(
        self, operator: User, dataset: Dataset, api: APIClient, body: dict[str, Any]
    ) -> None:
        assert api.post(URL, body, format="json").status_code == 400
        for key in ("../sums-v1", "none-v1"):
            assert api.post(URL, {"dataset_key": key}, format="json").status_code == 404
        assert not Erasure.objects.exists()

    def test_a_folder_that_is_a_link_is_not_followed(
        self, operator: User, train: Callable[..., Run], tmp_path: Path
    ) -> None:
        file_dataset(operator)
        trace = secret_trace()
        run = train()
        outside = tmp_path / "outside"
        run_folder(run).rename(outside)
        run_folder(run).symlink_to(outside)
        affected = affected_by(trace_ids=[trace.pk], by=operator)
        erasure = erase(affected=affected, confirmed=1, by=operator)
        assert "is a symbolic link" in erasure.problem
        assert SECRET in (outside / names.DATASET).read_text()


def test_the_page_shows_first_and_erases_with_the_number(
    operator: User, dataset: Dataset, client: Client
) -> None:
    client.force_login(operator)
    trace = Trace.objects.all()[0]
    page = client.get(f"/erasures/new?trace={trace.pk}").content.decode()
    assert '<strong data-testid="count">1</strong>' in page
    assert page.count('data-testid="affected-dataset"') == 1
    form = {"trace_ids": str(trace.pk), "dataset": "", "confirm": ""}
    assert client.post("/erasures/new", form).status_code == 200
    assert client.post("/erasures/new", form | {"confirm": "2"}).status_code == 409
    assert client.post("/erasures/new", form | {"trace_ids": "x"}).status_code == 400
    trace.refresh_from_db()
    assert trace.erased_at is None
    done = client.post("/erasures/new", form | {"confirm": "1"})
    assert done.status_code == 302
    assert 'data-testid="complete"' in client.get(done["Location"]).content.decode()
    trace.refresh_from_db()
    assert trace.erased_at is not None
    assert client.get("/erasures/new").content.decode().count('data-testid="erasure-row"') == 1
    assert client.get("/erasures/new?dataset=sums-v1").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_the_files_of_the_database_hold_nothing_of_it(operator: User):
    """Neither a page that was freed, nor the write-ahead log."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL writes a table's pages when it wants to")
    database = Path(connection.settings_dict["NAME"])
    long = {"prompt": SECRET, "completion": f"{SECRET} tail " * 1000}
    around = [{"prompt": f"{n} {'z' * 900}", "completion": str(n)} for n in range(200)]
    file_dataset(operator, lines=[*around[:100], long, *around[100:]])
    file_dataset(operator, "v2", lines=around[::2])  # moves rows between pages
    held = [
        path
        for path in database.parent.glob(f"{database.name}*")
        if SECRET.encode() in path.read_bytes()
    ]
    assert held

    erase(
        affected=affected_by(trace_ids=[secret_trace().pk], by=operator), confirmed=1, by=operator
    )

    for path in database.parent.glob(f"{database.name}*"):
        assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.django_db(transaction=True)
def test_a_reader_of_old_versions_is_waited_for(operator: User, monkeypatch: pytest.MonkeyPatch):
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has no such log")
    monkeypatch.setattr(datasets_erasing, "CHECKPOINT_SECONDS", 0.0)
    file_dataset(operator)
    wanted = [secret_trace().pk]
    reader = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM datasets_trace").fetchone()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 0")

    asked = affected_by(trace_ids=wanted, by=operator)
    erasure = erase(affected=asked, confirmed=1, by=operator)
    assert erasure.completed_at is None
    assert "write-ahead log" in erasure.problem

    reader.execute("ROLLBACK")
    reader.close()
    assert continue_erasure(erasure=erasure, by=operator).completed_at is not None


class TestTwins:
    """Examples that say the same with another ``meta``."""

    TWIN: ClassVar = {"prompt": SECRET, "final_answer": "2", "steps": [], "meta": {"id": "7"}}

    @pytest.fixture
    def erased(self, operator: User) -> None:
        file_dataset(operator)
        asked = affected_by(trace_ids=[secret_trace().pk], by=operator)
        erase(affected=asked, confirmed=1, by=operator)

    def test_they_go_together(self, operator: User):
        file_dataset(operator)
        first = secret_trace()
        (twin,) = create_traces(items=[self.TWIN], by=operator)
        assert twin.pk != first.pk
        asked = affected_by(trace_ids=[first.pk], by=operator)
        assert (asked.count, asked.twins) == (2, 1)
        with pytest.raises(Conflict):
            erase(affected=asked, confirmed=1, by=operator)

        erase(affected=asked, confirmed=2, by=operator)

        assert not Trace.objects.filter(prompt=SECRET).exists()
        again = affected_by(trace_ids=[first.pk], by=operator)
        assert (again.count, again.erased, again.twins) == (1, 1, 0)

    @pytest.mark.parametrize(
        "item",
        [
            TWIN,
            {
                "messages": [
                    {"role": "user", "content": SECRET},
                    {"role": "assistant", "content": "2"},
                ]
            },
        ],
        ids=["another meta", "as a conversation"],
    )
    @pytest.mark.usefixtures("erased")
    def test_they_are_not_stored_afterwards(self, operator: User, item: dict[str, Any]):
        with pytest.raises(InvalidTraces) as caught:
            create_traces(
                items=[{"prompt": "1+1=?", "final_answer": "2", "steps": []}, item], by=operator
            )
        assert list(caught.value.errors) == [1]
        assert not Trace.objects.filter(prompt__in=[SECRET, "1+1=?"]).exists()

    @pytest.mark.usefixtures("erased")
    def test_they_are_not_imported_afterwards(self, operator: User):
        with pytest.raises(BadLines) as caught:
            file_dataset(operator, "v2", lines=[*LINES[:1], LINES[1] | {"source": "x"}])
        assert [problem.line for problem in caught.value.problems] == [2]
        assert storing.WAS_ERASED in caught.value.problems[0].reason

    def test_one_that_another_dataset_uses_keeps_what_it_says(self, operator: User):
        mine = file_dataset(operator)
        other = file_dataset(operator, "v2", lines=[LINES[1] | {"source": "x"}])

        asked = erasing.affected_of_dataset(dataset=mine, by=operator)

        assert asked.count == 2
        erase(affected=asked, confirmed=2, by=operator)
        assert Trace.objects.filter(prompt=SECRET).count() == 2
        assert other.items.filter(trace__prompt=SECRET).exists()

    @pytest.mark.parametrize("named", [0, 1], ids=["the trace", "the conversation"])
    def test_they_are_found_however_long_the_question_is(self, operator: User, named: int):
        """Of a conversation only the beginning of the question has a column of its own."""
        question = f"{SECRET} " * 100
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": "2"}]
        traces = create_traces(
            items=[
                {"prompt": question, "final_answer": "2", "steps": []},
                {"messages": said},
                {"prompt": question, "final_answer": "3", "steps": []},
            ],
            by=operator,
        )

        asked = affected_by(trace_ids=[traces[named].pk], by=operator)

        assert set(asked.trace_ids) == {traces[0].pk, traces[1].pk}

    @pytest.mark.parametrize(
        "pair",
        [
            in_both_forms(f"{SECRET} für Zoë?", "é"),
            in_both_forms("パーティーで" * 300, "가"),
            [answered(f"{SECRET} K", "2"), answered(f"{SECRET} \N{KELVIN SIGN}", "2")],
            [
                chat(SECRET, "2", reasoning="1+1"),
                chat(SECRET, "<think>\n1+1\n</think>\n\n2"),
            ],
        ],
        ids=["accents", "long, without spaces", "a sign of its own", "reasoning in the answer"],
    )
    @pytest.mark.parametrize("named", [0, 1])
    def test_their_form_makes_no_difference(
        self, operator: User, pair: list[dict[str, Any]], named: int
    ):
        """The form of Unicode, and where the reasoning stands."""
        traces = create_traces(items=pair, by=operator)

        asked = affected_by(trace_ids=[traces[named].pk], by=operator)

        assert set(asked.trace_ids) == {trace.pk for trace in traces}
        erase(affected=asked, confirmed=2, by=operator)
        with pytest.raises(InvalidTraces):
            create_traces(items=[pair[1 - named] | {"meta": {"id": "7"}}], by=operator)

    def test_the_ids_of_tool_calls_make_no_difference(self, operator: User):
        def call(identity: str) -> dict[str, Any]:
            function = {"name": "find", "arguments": {"who": SECRET}}
            made = {"id": identity, "type": "function", "function": function}
            answer = {"role": "assistant", "content": "", "tool_calls": [made]}
            return {"messages": [{"role": "user", "content": "who?"}, answer]}

        first, second = create_traces(items=[call("c1"), call("c2")], by=operator)
        assert first.pk != second.pk
        assert affected_by(trace_ids=[first.pk], by=operator).twins == 1

    def test_a_recipe_that_makes_one_leaves_it_out(self, operator: User):
        made = {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]
        }
        (gone,) = create_traces(items=[made], by=operator)
        erase(affected=affected_by(trace_ids=[gone.pk], by=operator), confirmed=1, by=operator)
        long = json.loads(json.dumps(made).replace('"x"', '"x and more of it"'))
        kept = json.loads(json.dumps(made).replace('"x"', '"y"'))
        traces = create_traces(items=[long, kept], by=operator)
        parent = create_dataset(
            name="chats", version="v1", trace_ids=[one.pk for one in traces], by=operator
        )
        recipe = parse_recipe(
            {"steps": [{"operation": "length", "of": "answer", "max": 1, "longer": "truncate"}]}
        )
        derivation = derive(recipe, [parent])

        left = list(derivation.examples())

        assert len(left) == 1
        assert derivation.report()["erased"] == 1


@pytest.mark.django_db(transaction=True)
def test_reasons_that_quote_lines_go_too(operator: User, api: APIClient):
    """A file that was refused, imported once it was right."""
    row = submit_file(
        file=jsonl_file({"conversations": [{"from": SECRET[:30], "value": "x"}]}),
        request=ImportRequest(name="people", version="v1"),
        file_name="people.jsonl",
        by=operator,
    )
    work_on(row)
    row.refresh_from_db()
    assert row.state == ImportState.FAILED
    assert SECRET[:30] in json.dumps(row.detail)
    file_dataset(operator)

    asked = affected_by(trace_ids=[secret_trace().pk], by=operator)
    assert erase(affected=asked, confirmed=1, by=operator).completed_at is not None

    row.refresh_from_db()
    assert (row.detail, row.problem) == ({}, datasets_erasing.REASONS_ERASED)
    assert api.get(f"/api/datasets/imports/{row.pk}").status_code == 200
