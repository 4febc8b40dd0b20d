"""Text of others keeps its direction to itself: on every page it stands in an element that isolates
it, so that an override in a name turns nothing around that stands beside it."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from runs.models import Host, MetricSeries, Run, RunEvent, RunStatus, RunTag, SavedView
from runs.tests.leftovers import make_run

TURNED = (  # RIGHT-TO-LEFT OVERRIDE: shown as exe.txt, and everything after it backwards
    "\u202etxt.exe"
)
ISOLATING = {"bdi", "pre", "textarea", "option", "title"}  # a block or a text of its own
FIRST, POP = "\u2068", "\u2069"  # the characters that isolate where no element can stand
ISOLATED = re.compile(f"{FIRST}[^{POP}]*{POP}")
# shown by themselves, or not at all
ALONE = {
    "title",
    "value",
    "href",
    "action",
    "content",
    "hx-get",
    "data-live-run",
}
VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}
BLOCKS = {"td", "th", "dd", "li", "p", "h1", "h2", "h3", "div"}


class Finder(HTMLParser):
    """Collects where text of others stands unisolated. ``blocks``: elements that isolate when they
    hold nothing else."""

    def __init__(self, *, blocks: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.path: list[tuple[str, bool]] = []  # tag, whether it isolates
        self.seen = 0
        self.open: list[str] = []
        self.blocks = blocks

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and TURNED in value and name not in ALONE:
                self.seen += 1
                if TURNED in ISOLATED.sub("", value):
                    self.open.append(f"<{tag} {name}={value!r}>")
        if tag not in VOID:
            self.path.append((tag, tag in ISOLATING or ("dir", "auto") in attrs))

    def handle_endtag(self, tag: str) -> None:
        while self.path and self.path.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if TURNED not in data:
            return
        self.seen += 1
        isolated = any(isolates for _, isolates in self.path) or TURNED not in ISOLATED.sub(
            "", data
        )
        alone = self.path and self.path[-1][0] in self.blocks and data.strip() == TURNED
        if not isolated and not alone:
            self.open.append(f"{'>'.join(tag for tag, _ in self.path[-4:])}: {data.strip()[:80]!r}")


@pytest.fixture
def there(user: User, local_client: Client) -> dict[str, Any]:
    """One of everything that people and trainings name, called so."""
    local_client.get("/")  # makes the account of local mode
    owner = User.objects.create_user(TURNED)
    items = [
        {
            "prompt": TURNED,
            "steps": [{"i": 0, "type": TURNED, "content": TURNED}],
            "final_answer": TURNED,
            "meta": {"x": TURNED},
        },
        {"prompt": f"{TURNED} 2", "steps": [], "final_answer": TURNED},
    ]
    traces = create_traces(items=items, by=owner)
    dataset = create_dataset(
        name="turned", version="1", trace_ids=[trace.pk for trace in traces], description=TURNED,
        provenance={"source": TURNED}, by=owner,
    )  # fmt: skip
    host = Host.objects.create(name=TURNED, heartbeat_at=timezone.now(), runtime_version="1")
    line = {
        "id": TURNED,
        "messages": [{"role": TURNED, "content": TURNED}, {"role": "assistant", "content": TURNED}],
        "final_answer": TURNED,
    }
    files = {
        TURNED: b"", f"checkpoints/{TURNED}": b"", f"checkpoints/10/{TURNED}": b"",
        "stdout.log": TURNED.encode(), "dataset.jsonl": json.dumps(line).encode() + b"\n",
        "seen.json": json.dumps(
            {"examples": [{"tokens": [TURNED, TURNED], "learnt_from": 1, "length": 2}]}
        ).encode(),
    }  # fmt: skip
    histogram = [[1, 2, 3]]
    summary = {
        "samples": [dict.fromkeys(("prompt", "expected", "before", "after"), TURNED)],
        "warnings": [TURNED],
        "preflight": {"length_histogram": histogram, "warnings": [TURNED]},
    }
    common: dict[str, Any] = {
        "dataset_key": dataset.dataset_key, "message": TURNED, "notes": f"{TURNED}\n\n* {TURNED}",
        "host": host, "summary": summary, "stdout": TURNED, "stderr": TURNED,
        "config": {"num_epochs": 1, "note": TURNED},
    }  # fmt: skip
    runs = []
    for number, status in enumerate(
        (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.RUNNING, RunStatus.PENDING)
    ):
        output_dir = f"{TURNED}/{number}"
        run = make_run(
            owner,
            status=status,
            files=files,
            model_id=f"{TURNED}{'' if number else ' '}",
            output_dir=output_dir,
            **common,
        )
        run.client_request_id = f"{TURNED}{number}"
        run.save()
        RunTag.objects.create(run=run, name=TURNED, run_created_at=run.created_at)
        RunEvent.objects.create(run=run, reason=TURNED, by=TURNED, at=timezone.now())
        MetricSeries.objects.create(
            run=run,
            name=TURNED,
            count=1,
            first=1.0,
            last=1.0,
            minimum=1.0,
            maximum=1.0,
            last_step=1,
        )
        runs.append(run)
    mine = User.objects.get(username="local")
    SavedView.objects.create(owner=mine, name=TURNED, query=f"owner={TURNED}")
    return {
        "runs": runs,
        "dataset": dataset,
        "traces": traces,
        "host": host,
        "view": SavedView.objects.get(),
    }


def test_every_page_isolates_it(local_client: Client, there: dict[str, Any]) -> None:
    runs: list[Run] = there["runs"]
    pages = [
        "/",
        "/?columns=owner,host,outcome,notes,model,dataset",
        f"/?q={TURNED}",
        "/runs/views",
        "/runs/new",
        f"/runs/new?clone={runs[0].pk}",
        f"/runs/compare?ids={runs[0].pk},{runs[1].pk}",
        *(
            f"/runs/chosen?do={do}&ids={runs[0].pk},{runs[2].pk}"
            for do in ("delete", "tag", "cancel")
        ),
        *(f"/runs/{run.pk}" for run in runs),
        f"/runs/{runs[0].pk}/samples",
        "/datasets",
        f"/datasets?q={TURNED}",
        "/datasets/turned-1",
        "/datasets/turned-1/tokens",
        "/traces",
        f"/traces?q={TURNED}x",
        f"/traces/{there['traces'][0].pk}",
    ]
    opened, unseen = [], []
    for path in pages:
        response = local_client.get(path)
        assert response.status_code == 200, path
        finder = Finder()
        finder.feed(response.content.decode())
        opened += [f"{path} {where}" for where in finder.open]
        if not finder.seen:
            unseen.append(path)
    assert not opened, "\n".join(sorted({re.sub("[0-9a-f-]{36}", "ID", one) for one in opened}))
    # there it stands in fields only
    assert {path.split("?")[0] for path in unseen} <= {"/runs/new"}


def test_messages_isolate_it(local_client: Client, there: dict[str, Any]) -> None:
    view = there["view"]
    for path, data in (
        (f"/runs/views/{view.pk}/rename", {"name": TURNED}),
        (f"/runs/views/{view.pk}/delete", {}),
    ):
        page = local_client.post(path, data, follow=True).content.decode()
        assert f"{FIRST}{TURNED}{POP}" in page


def test_the_admin_isolates_it(operator: Client, there: dict[str, Any]) -> None:
    """The lists of Django's own give each its cell."""
    for path in ("host/queue/", "run/", "runevent/", "runtag/", "host/"):
        response = operator.get(f"/admin/runs/{path}")
        assert response.status_code == 200, path
        finder = Finder(blocks=frozenset(BLOCKS | {"a"}))
        finder.feed(response.content.decode())
        assert (finder.open, finder.seen > 0) == ([], True), path
