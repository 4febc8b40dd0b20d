"""HEAD of every route that answers GET: the status and the headers of GET, no body, and nothing
read for it."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.http import StreamingHttpResponse
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.urls.resolvers import RoutePattern

from datasets.imports.importers import ImportRequest
from datasets.imports.importing import import_file, keep_draft
from datasets.models import Dataset, Erasure, Import, Trace
from runs.execution.attending import cancel_run
from runs.models import GateCheck, MetricSeries, SavedView, Score, Standing, VoteRound
from runs.services.reservations import run_folder
from runs.spec.kinds import SFT
from runs.tests.checkpoint_layout import leave_checkpoints
from runs.tests.conftest import Start, Submit
from runs.tests.execution.test_web_killed import Server
from runs.tests.judge import make_judgement
from runs.tests.ports import HeldPort
from tunixrt.head import HeadMiddleware
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db(transaction=True)  # a stream closes the connection of its thread

ADMIN = "admin"  # Django's own pages: one of them stands for all
# A page holds a CSRF token, which is new each time; one that is never cached names the second.
ALWAYS_DIFFERENT = ("Date", "Expires", "Set-Cookie", "Content-Length")


def routes(resolver: URLResolver, namespace: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and parameters of every route of ours, by namespace."""
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLPattern):
            route = pattern.pattern
            assert isinstance(route, RoutePattern)
            assert pattern.name, f"{route} has no name"
            yield f"{namespace}{pattern.name}", route.converters
        elif pattern.namespace != ADMIN:
            yield from routes(
                pattern, f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            )


ROUTES = dict(routes(get_resolver("tunixrt.urls")))
QUERIES = {
    "runs:chosen": "?do=tag&ids={run_id}",
    "runs:compare": "?ids={run_id},{other}",
    "runs:compare_csv": "?ids={run_id},{other}",
    "runs:compare_evaluations": "?ids={evaluation_id},{other_evaluation}",
    "runs:compare_evaluations_csv": "?ids={evaluation_id},{other_evaluation}",
    "runs_api:compare_evaluations": "?ids={evaluation_id},{other_evaluation}",
    "runs:erase_examples": "?trace={trace_id}",
    "runs_api:rendered": "?model_id=preset:tiny-llama",
    "runs_api:lengths": "?model_id=preset:tiny-llama",
    "datasets:diff": "?to=lines-v1",
    "datasets_api:diff": "?to=lines-v1",
    "datasets_api:diff_lines": "?to=lines-v1",
}
DRAFTS = ("datasets:mapping", "datasets_api:import_mapping")


@pytest.fixture
def there(submit: Submit, dataset: Dataset, user: User) -> dict[str, Any]:
    """A value for every parameter of a route: of a run with files, its dataset, a trace of that,
    and a view."""
    run, other = (cancel_run(run=submit(), by=user) for _ in range(2))
    folder = run_folder(run)
    folder.mkdir(parents=True)
    (folder / "stdout.log").write_text("a line\n")
    (folder / "manifest.yaml").write_text("{}\n")
    (folder / "extra.bin").write_bytes(bytes(1000))
    leave_checkpoints(folder, 2, model_id=run.model_id, training=SFT.defaults())
    MetricSeries.objects.create(
        run=run, name="loss", count=1, first=1.0, last=1.0, minimum=1.0, maximum=1.0, last_step=1
    )
    import_file(
        file=io.BytesIO(b'{"prompt": "1 + 1 = ?", "completion": "2"}\n1\n'),
        request=ImportRequest(name="lines", version="v1", skip_bad=0.5),
        by=user,
    )
    draft = keep_draft(
        file=io.BytesIO(b'{"frage": "1 + 1 = ?"}\n'),
        request=ImportRequest(name="columns", version="v1"),
        file_name="",
        by=user,
    )
    view = SavedView.objects.create(owner=user, name="mine", query="")
    evaluation, other_evaluation = (
        submit(kind="evaluate", dry_run=False, model_id=f"run:{run.pk}@2") for _ in range(2)
    )
    Score.objects.create(
        evaluation=evaluation.evaluation,
        questions=evaluation.evaluation.questions,
        label="exact_match",
        scorer={"name": "exact_match", "version": 1, "parameters": {}},
        scorer_hash="0" * 16,
        scored=0,
        failed=0,
        truncated=0,
        total=0,
        standing=Standing.PARTIAL,
    )
    check = GateCheck.objects.create(candidate=run, margin=0, created_by=user)
    return {
        "run_id": run.pk, "other": other.pk, "key": dataset.dataset_key,
        "trace_id": Trace.objects.values_list("pk", flat=True)[0],
        "import_id": Import.objects.get(dataset_key="lines-v1").pk,
        "draft": draft.pk,
        "evaluation_id": evaluation.pk,
        "other_evaluation": other_evaluation.pk,
        "set_key": evaluation.evaluation.questions.key,
        "check_id": check.pk,
        "name": "none",
        "round_id": VoteRound.objects.create(
            questions=evaluation.evaluation.questions, seed=0, created_by=user
        ).pk,
        "judgement_id": make_judgement(evaluation.evaluation, by=user).pk,
        "erasure_id": Erasure.objects.create(trace_ids=[]).pk,
        "pk": view.pk, "stream": "stdout", "path": "extra.bin",
    }  # fmt: skip


def test_every_route_that_answers_get_answers_head(
    remote_client: Client,
    user: User,
    there: dict[str, Any],
    settings: LazySettings,
    tmp_path: Path,
):
    settings.TUNIX_DATA_ROOTS = [tmp_path]
    set_role(user=user, role=Role.OPERATOR)
    remote_client.force_login(user)
    answered = set()
    for name, parameters in ROUTES.items():
        values = there | ({"import_id": there["draft"]} if name in DRAFTS else {})
        address = reverse(name, kwargs={parameter: values[parameter] for parameter in parameters})
        address += QUERIES.get(name, "").format(**there)
        if (get := remote_client.get(address)).status_code == 405:
            assert remote_client.head(address).status_code == 405, name
            assert not {"GET", "HEAD"} & set(get["Allow"].split(", ")), name
            continue
        answered.add(name)
        b"".join(get)  # to its end: a stream that is not read keeps its place
        head = remote_client.head(address)
        assert head.status_code == get.status_code in (200, 204, 302), name
        assert b"".join(head) == b"", name
        fixed = lambda answer: {  # noqa: E731
            key: value for key, value in answer.items() if key not in ALWAYS_DIFFERENT
        }
        assert fixed(head) == fixed(get), name
    assert {
        "runs:history",
        "runs:detail",
        "runs_api:events",
        "runs_api:artifact",
        "datasets_api:export",
        "metrics",
    } <= answered


def test_no_stream_is_read_for_head(rf: RequestFactory):
    class Body:
        closed = False

        def __iter__(self) -> "Body":
            return self

        def __next__(self) -> bytes:
            raise AssertionError("The body of an answer to HEAD was read.")

        def close(self) -> None:
            self.closed = True

    body = Body()
    answer = HeadMiddleware(
        lambda request: StreamingHttpResponse(body, headers={"Content-Length": "7"})
    )(rf.head("/"))

    assert (b"".join(answer), answer["Content-Length"]) == (b"", "7")
    answer.close()
    assert body.closed


def test_a_real_server_ends_head_of_a_live_stream_at_once(
    program: Start, port: HeldPort, submit: Submit
):
    """GET of the events of a run that waits never ends by itself."""
    run = submit()
    run_folder(run).mkdir(parents=True)
    (run_folder(run) / "extra.bin").write_bytes(bytes(1000))
    with contextlib.closing(Server(program, port).client) as client:
        events = client.head(f"/api/tunix/runs/{run.pk}/events")
        download = client.head(f"/api/tunix/runs/{run.pk}/artifacts/extra.bin")
        page = client.head(f"/runs/{run.pk}")

    assert (events.status_code, events.headers["Content-Type"]) == (
        200,
        "text/event-stream; charset=utf-8",
    )
    assert (download.status_code, download.headers["Content-Length"]) == (200, "1000")
    assert (page.status_code, page.content) == (200, b"")
