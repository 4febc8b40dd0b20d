"""Sealed datasets: nobody but operators reads what their examples say, on no route; nothing trains
on them; and every look is in the audit log."""

import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from datasets.comparison.overlaps import compute_overlap
from datasets.imports.importers import ImportRequest
from datasets.imports.importing import import_file, keep_draft, submit_file, work_on
from datasets.models import Dataset, Erasure, Import, Trace
from datasets.services.exports import write_jsonl
from datasets.services.sealing import seal_datasets
from datasets.storage.word_index import work_off
from runs.models import Host, MetricSeries, SavedView
from runs.runfolder import names
from runs.services.claiming import claim_run
from runs.services.finishing import finish_run
from runs.services.reservations import run_folder
from runs.services.votes import start_round
from runs.spec.kinds import SFT
from runs.tests.api.test_head import QUERIES, ROUTES
from runs.tests.checkpoint_layout import leave_checkpoints
from runs.tests.conftest import Evaluate, Submit
from runs.tests.judge import make_judgement
from tunixrt.roles import Role, set_role
from tunixrt.tests.clients import FAR_AWAY

pytestmark = pytest.mark.django_db(transaction=True)  # a stream closes the connection of its thread
MARKER = "quagga7731"
OPEN = "opencopy-v1"  # a dataset that is not sealed
SEARCHED = {
    "runs:history", "runs_api:list", "runs_api:logs", "datasets:detail", "datasets:dataset_list",
    "datasets:traces", "datasets_api:list", "datasets_api:traces",
}  # fmt: skip
# Routes on which an operator reads what the examples say.
READ_BY_OPERATORS = {
    "datasets:detail", "datasets:diff", "datasets:import_detail", "datasets:mapping",
    "datasets:trace",
    "datasets_api:diff", "datasets_api:diff_lines", "datasets_api:export", "datasets_api:import",
    "datasets_api:import_mapping", "datasets_api:imports", "datasets_api:skipped",
    "datasets_api:trace", "runs:compare_evaluations", "runs:detail", "runs:evaluation",
    "runs:samples",
    "runs_api:artifact", "runs_api:detail", "runs_api:evaluation_items", "runs_api:events",
    "runs_api:log_file", "runs_api:logs", "runs:uses",
}  # fmt: skip


def lines(count: int, text: str, **more: Any) -> io.BytesIO:
    rows = [
        {"prompt": f"{text} {number} and then?", "completion": f"{text} {number}"} | more
        for number in range(count)
    ]
    return io.BytesIO("".join(f"{json.dumps(row)}\n" for row in rows).encode())


class Sealed:
    """A dataset of ``owner`` that is sealed, after a run has trained on it, and all that came of
    it."""

    def __init__(self, owner: User, submit: Submit, evaluate: Evaluate):
        asked = ImportRequest(name="secret", version="v1", skip_bad=0.5)
        failed = submit_file(
            file=lines(1, "other", split=MARKER),
            request=ImportRequest(name="secret", version="v1"),
            file_name="",
            by=owner,
        )
        work_on(failed.pk)
        good, bad = lines(40, MARKER).getvalue(), lines(1, MARKER, split=MARKER).getvalue()
        self.dataset = import_file(file=io.BytesIO(good + bad), request=asked, by=owner)
        self.other = import_file(
            file=lines(3, "plain"), request=ImportRequest(name="opencopy", version="v1"), by=owner
        )
        compute_overlap(self.dataset, self.other, by=owner)
        compute_overlap(self.other, self.dataset, by=owner)
        draft = keep_draft(
            file=io.BytesIO(json.dumps({"frage": MARKER}).encode() + b"\n"),
            request=ImportRequest(name="secret", version="v1-2"),
            file_name="",
            by=owner,
        )
        Import.objects.filter(pk=draft.pk).update(dataset_key="secret-v1")
        work_off()
        training = submit(dataset_key="secret-v1", dry_run=False)
        folder = run_folder(training)
        folder.mkdir(parents=True)
        write_jsonl(self.dataset, folder / names.DATASET)
        seen = {"tokens": [MARKER], "length": 1, "learnt": [[0, 1]]}
        (folder / names.SEEN).write_text(json.dumps({"examples": [seen]}))
        (folder / names.STDOUT).write_text(f"out {MARKER}\n")
        (folder / names.STDERR).write_text(f"err {MARKER}\n")
        (folder / names.MANIFEST).write_text("{}\n")
        leave_checkpoints(folder, 2, model_id=training.model_id, training=SFT.defaults())
        MetricSeries.objects.create(
            run=training, name="loss", count=1, first=1.0, last=1.0, minimum=1.0, maximum=1.0,
            last_step=1,
        )  # fmt: skip
        sample = dict.fromkeys(("prompt", "expected", "before", "after"), MARKER)
        claim_run(run=training, host=Host.objects.create(name="h"), by="test")
        finish_run(
            run=training,
            status="completed",
            reason="done",
            exit_code=0,
            by="test",
            stdout=f"out {MARKER}",
            stderr=f"err {MARKER}",
            summary={"samples": [sample]},
        )
        self.trace = Trace.objects.filter(items__dataset=self.dataset)[0]
        self.evaluation, self.another = (
            evaluate(dataset_key="secret-v1", options={"text": text}) for text in ("one", "two")
        )
        votes = start_round(evaluations=[self.evaluation.pk, self.another.pk], by=owner)
        seal_datasets(datasets=[self.dataset], by=owner)
        self.runs = [training, self.evaluation]
        view = SavedView.objects.create(owner=owner, name="mine", query="")
        self.values: dict[str, list[Any]] = {
            "run_id": [run.pk for run in self.runs],
            "evaluation_id": [self.evaluation.pk],
            "key": ["secret-v1", OPEN],
            "set_key": [self.evaluation.evaluation.questions.key],
            "trace_id": [self.trace.pk],
            "import_id": [failed.pk, Import.objects.get(dataset=self.dataset).pk, draft.pk],
            "erasure_id": [Erasure.objects.create(trace_ids=[]).pk],
            "check_id": [training.pk],
            "round_id": [votes.pk],
            "judgement_id": [make_judgement(self.evaluation.evaluation, by=owner).pk],
            "name": ["no-baseline"],
            "pk": [view.pk],
            "stream": ["stdout", "stderr"],
            "path": sorted(
                {
                    str(path.relative_to(run_folder(run)))
                    for run in self.runs
                    for path in run_folder(run).rglob("*")
                    if path.is_file()
                }
            ),
        }

    def queries(self, name: str) -> list[str]:
        two = ",".join(str(run.pk) for run in self.runs)
        answers = f"{self.evaluation.pk},{self.another.pk}"
        more = {
            "datasets:diff": [{"to": "secret-v1"}, {"to": OPEN}],
            "datasets_api:diff": [{"to": "secret-v1"}, {"to": OPEN}],
            "datasets_api:diff_lines": [{"to": "secret-v1"}, {"to": OPEN}],
            "runs_api:logs": [{"stream": "stderr"}, {"tail_lines": "5"}],
            "datasets_api:export": [{"form": "examples"}],
            "runs:look": [{"dataset": "secret-v1"}],
            "runs:chosen": [{"do": "tag", "ids": two}],
            "runs:compare": [{"ids": two}],
            "runs:compare_csv": [{"ids": two}],
            "runs:compare_evaluations": [{"ids": answers}],
            "runs:compare_evaluations_csv": [{"ids": answers}],
            "runs_api:compare_evaluations": [{"ids": answers}],
        }.get(name, [])
        if name in QUERIES and not more:
            more = [{"model_id": "preset:tiny-llama", "trace": str(self.trace.pk)}]
        if name in SEARCHED:
            texts = (MARKER, str(self.trace.pk))
            more += [{key: text} for key in ("q", "words", "search") for text in texts]
        return ["", *(f"?{urlencode(query)}" for query in more)]

    def addresses(self) -> Iterator[tuple[str, str]]:
        for name, parameters in ROUTES.items():
            chosen: list[dict[str, Any]] = [{}]
            for parameter in parameters:
                chosen = [
                    one | {parameter: value} for one in chosen for value in self.values[parameter]
                ]
            for values in chosen:
                for query in self.queries(name):
                    yield name, reverse(name, kwargs=values) + query


@pytest.fixture
def sealed(user: User, submit: Submit, evaluate: Evaluate) -> Sealed:
    return Sealed(user, submit, evaluate)


def browser_of(user: User) -> Client:
    client = Client(REMOTE_ADDR=FAR_AWAY, raise_request_exception=False)
    client.force_login(user)
    return client


def text_of(answer: Any) -> str:
    content = b"".join(answer) if answer.streaming else answer.content
    return content.decode(errors="replace")


def shows(answer: Any, address: str) -> bool:
    """Whether an answer says what the examples say, beyond repeating what was asked for."""
    text = text_of(answer)
    return any(f"{MARKER} {number}" in text for number in (0, 1, 39)) or (
        MARKER in text and MARKER not in address
    )


def test_no_route_shows_them_to_the_owner_and_operators_read_them(sealed: Sealed, user: User):
    operator = User.objects.create_user("operator")
    set_role(user=operator, role=Role.OPERATOR)
    clients = {"owner": browser_of(user), "operator": browser_of(operator)}
    seen: dict[str, set[str]] = {"owner": set(), "operator": set()}
    failed = []
    done: set[tuple[str, str]] = set()  # that answer nothing, whatever else is asked
    for name, address in sealed.addresses():
        path = address.split("?")[0]
        for who, client in clients.items():
            if (who, path) in done:
                continue
            answer = client.get(address)
            if answer.status_code in (403, 404, 405, 501):
                done.add((who, path))
            if answer.status_code >= 500 and answer.status_code != 501:
                failed.append((who, address, answer.status_code))
            if shows(answer, address):
                seen[who].add(name if who == "operator" else address)

    assert failed == []
    assert seen["owner"] == set()
    # whether a text stands in a Parquet file as it is depends on the package, and that it is here
    assert seen["operator"] - {"datasets_api:parquet"} == READ_BY_OPERATORS


def test_no_form_and_no_call_of_the_owner_shows_them(sealed: Sealed, user: User):
    browser = browser_of(user)
    recipe = {"steps": [{"operation": "exact_duplicates"}]}
    merge = {"recipe": {"steps": [{"operation": "merge"}]}, "parents": ["secret-v1"]}
    trace_ids = [str(sealed.trace.pk)]
    two = [str(run.pk) for run in (sealed.evaluation, sealed.another)]
    seal = "/datasets/secret-v1/seal"
    calls: list[tuple[str, dict[str, Any], int]] = [
        ("/api/datasets/secret-v1/clean?dry_run=true", {"recipe": recipe}, 409),
        (f"/api/datasets/{OPEN}/clean?dry_run=true", merge, 409),
        ("/api/datasets/secret-v1/clean", {"recipe": recipe, "name": "a", "version": "b"}, 409),
        ("/api/datasets", {"name": "a", "version": "b", "trace_ids": trace_ids}, 400),
        (f"/api/datasets/{OPEN}/overlaps", {"other": "secret-v1"}, 200),
        ("/api/datasets/secret-v1/overlaps", {"other": OPEN}, 200),
        (f"/api/traces/{sealed.trace.pk}/archive", {}, 404),
        (f"/api/tunix/runs/{sealed.runs[0].pk}/retry", {}, 409),
        ("/api/tunix/votes", {"evaluations": two}, 409),
        (f"/api/tunix/runs/{sealed.runs[0].pk}/extend", {"num_epochs": 1}, 409),
    ]  # fmt: skip
    before = Dataset.with_incomplete.count()
    for path, body, status in calls:
        answer = browser.post(path, json.dumps(body), content_type="application/json")
        assert (path, answer.status_code) == (path, status), text_of(answer)
        assert not shows(answer, path), path
        if "overlaps" in path:
            assert answer.json()["examples"] == []
    forms: list[tuple[str, dict[str, str], int]] = [
        ("/datasets/secret-v1/clean", {"recipe": json.dumps(recipe), "action": "preview"}, 409),
        ("/datasets/secret-v1/clean", {"recipe": json.dumps(recipe), "action": "make"}, 409),
        (f"/traces/{sealed.trace.pk}/archive", {"archived": "true"}, 404),
        (seal, {"sealed": "false", "confirmed": "true"}, 403),
    ]
    for path, fields, status in forms:
        answer = browser.post(path, fields)
        assert (path, answer.status_code) == (path, status)
        assert not shows(answer, path), path
    assert Dataset.with_incomplete.count() == before


def test_the_admin_shows_none_without_an_entry_in_the_log(sealed: Sealed, staff: User):
    browser = browser_of(staff)
    for path in (
        f"/admin/datasets/dataset/{sealed.dataset.pk}/change/",
        "/admin/datasets/trace/",
        f"/admin/datasets/trace/?q={MARKER}",
        f"/admin/datasets/trace/{sealed.trace.pk}/change/",
    ):
        assert not shows(browser.get(path, follow=True), path), path


def test_every_way_an_operator_reads_them_is_an_entry(sealed: Sealed):
    training, evaluation = sealed.runs
    for number, path in enumerate(
        (
            "/datasets/secret-v1",
            "/datasets/secret-v1/diff?to=" + OPEN,
            f"/traces/{sealed.trace.pk}",
            "/api/datasets/secret-v1/export.parquet",
            f"/api/datasets/imports/{sealed.values['import_id'][1]}/skipped.jsonl",
            f"/runs/{training.pk}/samples",
            f"/runs/{training.pk}",
            f"/evaluations/{evaluation.pk}",
            f"/api/tunix/runs/{training.pk}",
            f"/api/tunix/runs/{training.pk}/artifacts/dataset.jsonl",
            f"/api/tunix/runs/{training.pk}/logs/stdout",
            f"/api/tunix/runs/{training.pk}/events",
            f"/api/tunix/evaluations/{evaluation.pk}/items",
        )
    ):
        account = User.objects.create_user(f"operator{number}")
        set_role(user=account, role=Role.OPERATOR)
        answer = browser_of(account).get(path)
        assert answer.status_code in (200, 501), path
        text_of(answer)
        entry = LogEntry.objects.filter(user=account).get()
        assert (entry.object_repr, entry.change_message) == ("secret-v1", "read sealed examples")
