"""Provenance from files to models, and where an example is used."""

import io
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from datasets.cleaning.recipe import parse_recipe
from datasets.imports.importers import ImportRequest
from datasets.imports.importing import import_file, submit_derivation, submit_file
from datasets.models import Dataset, Import, Trace
from datasets.queries import lineage as dataset_lineage
from datasets.services.datasets import create_dataset
from datasets.tests.factory import work_on
from runs.models import Run, RunStatus
from runs.queries import lineage
from runs.tests.conftest import Submit

pytestmark = pytest.mark.django_db
LINES = b'{"prompt": "0+1=?", "completion": "1"}\n{"prompt": "1+1=?", "completion": "2"}\n'


def complete(run: Run) -> Run:
    Run.objects.filter(pk=run.pk).update(
        status=RunStatus.COMPLETED,
        exit_code=0,
        started_at=run.created_at,
        completed_at=run.created_at,
    )
    return run


def derive(parent: Dataset, version: str, by: User) -> Dataset:
    recipe = parse_recipe({"steps": [{"operation": "exact_duplicates"}]})
    work_on(submit_derivation(recipe=recipe, parents=[parent], name="file", version=version, by=by))
    return Dataset.objects.get(dataset_key=f"file-{version}")


def edges(answer: dict[str, Any]) -> set[tuple[str, str, str]]:
    labels = {
        node["id"]: "import" if node["type"] == "import" else f"{node['type']} {node['label']}"
        for node in answer["nodes"]
    }
    return {
        (labels[edge["source"]], edge["type"], labels[edge["target"]]) for edge in answer["edges"]
    }


def test_the_graph_leads_from_the_file_to_the_model(
    user: User, submit: Submit, api: APIClient, client: Client
) -> None:
    asked = ImportRequest(name="file", version="v1")
    work_on(submit_file(file=io.BytesIO(LINES), request=asked, file_name="a<b>.jsonl", by=user))
    first = Dataset.objects.get(dataset_key="file-v1")
    second = derive(first, "v2", user)
    run = complete(submit(dataset_key="file-v2", name="the run"))
    submit(dataset_key="file-v1", name="of the parent")
    answer = api.get("/api/datasets/file-v2/lineage").json()
    assert edges(answer) == {
        ("file a<b>.jsonl", "read", "import"),
        ("import", "stored", "dataset file-v1"),
        ("dataset file-v1", "recipe", "dataset file-v2"),
        ("dataset file-v2", "trained on", "run the run"),
        ("run the run", "resulted in", f"model run:{run.pk}"),
    }
    assert answer["cut"] == []
    of_parent = api.get("/api/datasets/file-v1/lineage").json()
    assert edges(of_parent) == edges(answer) | {
        ("dataset file-v1", "trained on", "run of the parent")
    }
    client.force_login(user)
    page = client.get(f"/datasets/{second.dataset_key}/lineage").content.decode()
    sources, results = page.split('data-testid="results"')
    assert "a&lt;b&gt;.jsonl" in sources and "a<b>" not in page
    assert 'data-testid="node-import"' in sources
    assert f"run:{run.pk}" in results


def test_a_file_that_a_request_imported_is_a_source(user: User, api: APIClient) -> None:
    import_file(
        file=io.BytesIO(LINES),
        request=ImportRequest(name="file", version="v1"),
        file_name="here.jsonl",
        by=user,
    )
    answer = api.get("/api/datasets/file-v1/lineage").json()
    assert ("file here.jsonl", "read", "import") in edges(answer)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (
            {"type": "hub", "hub": "openai/gsm8k", "file": "openai/gsm8k", "commit": "c" * 40},
            "hub openai/gsm8k at cccccccccccc",
        ),
        (
            {"type": "path", "path": "/srv/data/a.jsonl", "file": "a.jsonl"},
            "file /srv/data/a.jsonl",
        ),
        ({"file": ""}, "file A file without a name"),
    ],
)
def test_a_source_is_named(user: User, api: APIClient, source: dict[str, Any], shown: str) -> None:
    import_file(file=io.BytesIO(LINES), request=ImportRequest(name="file", version="v1"), by=user)
    Import.objects.update(source=source)
    answer = api.get("/api/datasets/file-v1/lineage").json()
    assert (shown, "read", "import") in edges(answer)


def test_a_dataset_of_stored_traces_says_so(dataset: Dataset, api: APIClient) -> None:
    answer = api.get("/api/datasets/sums-v1/lineage").json()
    assert edges(answer) == {("traces Stored examples", "stored", "dataset sums-v1")}
    assert api.get("/api/datasets/none-v1/lineage").status_code == 404


def test_a_large_graph_is_cut_and_says_so(
    dataset: Dataset, user: User, submit: Submit, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_lineage, "DATASETS_MAX", 2)
    monkeypatch.setattr(lineage, "RUNS_MAX", 1)
    for number in range(3):
        child = create_dataset(name="child", version=f"v{number}", trace_ids=[], by=user)
        child.parents.add(dataset)
        submit(name=f"run {number}")
    answer = api.get("/api/datasets/sums-v1/lineage").json()
    assert len([node for node in answer["nodes"] if node["type"] == "dataset"]) == 3
    assert [node["label"] for node in answer["nodes"] if node["type"] == "run"] == ["run 2"]
    assert answer["cut"] == [
        "Only the nearest 2 datasets that were made from this one are shown.",
        "Only the newest 1 runs are shown.",
    ]


def test_a_chain_of_versions_is_cut_at_a_level(
    dataset: Dataset, user: User, api: APIClient, client: Client
) -> None:
    last = dataset
    for number in range(dataset_lineage.LEVELS_MAX + 5):
        child = create_dataset(name="child", version=f"v{number}", trace_ids=[], by=user)
        child.parents.add(last)
        last = child
    answer = api.get("/api/datasets/sums-v1/lineage").json()
    assert len(answer["nodes"]) == dataset_lineage.LEVELS_MAX + 2  # itself, and its source
    assert len(answer["cut"]) == 1
    client.force_login(user)
    page = client.get(f"/datasets/{last.dataset_key}/lineage")
    assert page.status_code == 200 and 'data-testid="cut"' in page.content.decode()


def test_datasets_that_share_a_parent_are_shown_once(dataset: Dataset, user: User) -> None:
    made = [
        create_dataset(name="child", version=f"v{number}", trace_ids=[], by=user)
        for number in range(3)
    ]
    for child in made[:2]:
        child.parents.add(dataset)
    made[2].parents.set(made[:2])
    graph = lineage.lineage(made[2])
    branches = lineage.branches_of(graph, "dataset:child-v2", up=True)
    below = [branch.branches[0] for branch in branches if branch.branches]
    assert [(one.node.label, one.again) for one in below] == [("sums-v1", False), ("sums-v1", True)]


def test_every_dataset_run_and_model_with_an_example_is_listed(
    dataset: Dataset, user: User, submit: Submit, api: APIClient, client: Client
) -> None:
    trace, other, *_ = Trace.objects.filter(items__dataset=dataset).order_by("pk")
    ids = [trace.pk, trace.pk, other.pk]
    create_dataset(name="held", version="v1", trace_ids=ids, held_out_ids=[trace.pk], by=user)
    create_dataset(name="without", version="v1", trace_ids=[other.pk], by=user)
    trained = complete(submit(name="trained"))
    held = complete(submit(dataset_key="held-v1", name="held out"))
    submit(dataset_key="without-v1")
    trashed = submit(name="trashed")
    Run.objects.filter(pk=trashed.pk).update(trashed_at=trashed.created_at)
    path = f"/api/traces/{trace.pk}/uses"
    found = api.get(path).json()
    assert [(row["dataset_key"], row["splits"]) for row in found["datasets"]["data"]] == [
        ("held-v1", {"held_out": 2}),
        ("sums-v1", {"train": 1}),
    ]
    assert [(row["name"], row["learnt"]) for row in found["runs"]["data"]] == [
        ("held out", False),
        ("trained", True),
    ]
    assert [row["model"] for row in found["models"]["data"]] == [
        f"run:{held.pk}",
        f"run:{trained.pk}",
    ]
    page = api.get(path, {"limit": 1, "runs_offset": 1}).json()
    assert [row["name"] for row in page["runs"]["data"]] == ["trained"]
    assert (page["runs"]["next_offset"], page["datasets"]["next_offset"]) == (None, 1)
    client.force_login(user)
    html = client.get(f"/traces/{trace.pk}/uses?runs=1&datasets=x").content.decode()
    assert html.count('data-testid="using-dataset"') == 2
    assert html.count('data-testid="using-run"') == 1
    assert html.count('data-testid="using-model"') == 2
    assert f"/traces/{trace.pk}/uses" in client.get(f"/traces/{trace.pk}").content.decode()


def test_an_unknown_example_has_no_uses(api: APIClient, client: Client, user: User) -> None:
    assert api.get(f"/api/traces/{uuid.uuid4()}/uses").status_code == 404
    assert api.get("/api/traces/x/uses").status_code == 422
    client.force_login(user)
    assert client.get(f"/traces/{uuid.uuid4()}/uses").status_code == 404
