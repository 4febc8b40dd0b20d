"""The OpenAPI document: whole, exact, current; its examples work; and its page."""

import ast
import inspect
import io
import json
import re
import textwrap
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
import yaml
from django.contrib.auth.models import User
from django.test import Client
from django.urls import get_resolver
from rest_framework.test import APIClient
from rest_framework.views import APIView

from datasets.imports.importers import ImportRequest
from datasets.imports.importing import import_file, keep_draft, submit_file
from datasets.models import Dataset, Erasure, Import, Trace
from runs.models import Evaluation, EvaluationSet, Run, RunStatus, VoteRound
from runs.tests.api.test_roles import EXPECTED
from runs.tests.conftest import Submit
from runs.tests.judge import make_judgement
from tunixrt.api import schema
from tunixrt.api.query import NoQuery
from tunixrt.api.schema import Operation, document, operations
from tunixrt.reading import Model
from tunixrt.reference import read_reference
from tunixrt.roles import Role, set_role
from tunixrt.tests.answers import validator
from tunixrt.tests.clients import FAR_AWAY
from tunixrt.tests.plugin import ROOT

EVERY = list(operations())
IDS = [described.name for *_, described in EVERY]
DOCUMENT = document()


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


class TestDocument:
    def test_has_every_route_and_method_of_the_api(self):
        """docs/operations.md has them all too, and is walked with every role."""
        found = {(method.upper(), path) for path, method, *_ in EVERY}
        assert found == {(method, path) for method, path in EXPECTED if path.startswith("/api/")}

    def test_is_refused_while_a_method_is_not_described(self, monkeypatch: pytest.MonkeyPatch):
        class Forgotten(APIView):
            def get(self, request: Any) -> None: ...

        monkeypatch.setattr(schema, "api_routes", lambda: iter([("/api/x", Forgotten)]))
        with pytest.raises(LookupError, match=r"Forgotten.get \(/api/x\) has no @operation"):
            document()

    def test_is_in_the_repository(self):
        """Otherwise: `manage.py write_openapi`."""
        assert (ROOT / "docs" / "openapi.yaml").read_bytes() == schema.as_yaml()

    def test_is_the_same_in_yaml_and_json(self):
        assert yaml.safe_load(schema.as_yaml()) == json.loads(schema.as_json()) == DOCUMENT

    def test_names_only_what_there_is_and_all_that_there_is(self):
        named = references(DOCUMENT)
        there = {
            f"#/components/{kind}/{name}"
            for kind in ("schemas", "responses")
            for name in DOCUMENT["components"][kind]
        }
        assert named == there
        assert len(set(IDS)) == len(IDS)

    @pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
    def test_schemas_are_valid(self, name: str):
        jsonschema_rs.meta.validate(DOCUMENT["components"]["schemas"][name])

    @pytest.mark.parametrize(("path", "method", "view", "described"), EVERY, ids=IDS)
    def test_path_variables_are_described(
        self, path: str, method: str, view: type[APIView], described: Operation
    ):
        assert set(re.findall(r"{(\w+)}", path)) == set(described.path)


def read_models(view: type[APIView], method: str, reader: str) -> set[str]:
    """Return the models that a handler, or a method of its view that it calls, gives to
    ``reader``."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [method]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in view.__dict__:
            continue
        seen.add(name)
        source = textwrap.dedent(inspect.getsource(getattr(view, name)))
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == reader:
                found.add(ast.unparse(node.args[0]))
            elif isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self":
                waiting.append(node.func.attr)
    return found


@pytest.mark.parametrize(("path", "method", "view", "described"), EVERY, ids=IDS)
def test_a_view_reads_the_queries_that_it_declares(
    path: str, method: str, view: type[APIView], described: Operation
):
    if described.name == "uploadDataset":  # only where the body is no form
        return
    models: tuple[type[Model], ...] = (
        described.query if isinstance(described.query, tuple) else (described.query,)
    )
    declared = {model.__name__ for model in models} - {NoQuery.__name__}
    assert read_models(view, method, "read_query") - {NoQuery.__name__} == declared


class TestServed:
    @pytest.mark.parametrize(
        ("query", "accept", "expected"),
        [
            ("", "*/*", "application/json"),
            ("", "application/json", "application/json"),
            ("", "application/yaml", "application/yaml"),
            ("?format=yaml", "*/*", "application/yaml"),
            ("?format=json", "application/yaml", "application/json"),
        ],
    )
    def test_in_the_form_that_is_asked_for(
        self, api: APIClient, query: str, accept: str, expected: str
    ):
        response = api.get(f"/api/schema{query}", headers={"Accept": accept})
        assert (response.status_code, response["Content-Type"]) == (200, expected)
        load = json.loads if expected == "application/json" else yaml.safe_load
        assert load(response.content) == DOCUMENT

    def test_no_other_form(self, api: APIClient):
        assert api.get("/api/schema?format=xml").status_code == 422
        assert api.get("/api/schema", headers={"Accept": "application/xml"}).status_code == 406

    def test_not_to_nobody(self, db: None):
        assert APIClient(REMOTE_ADDR=FAR_AWAY).get("/api/schema").status_code == 401


# --- the examples -----------------------------------------------------------------------------


def send(client: APIClient, path: str, method: str, described: Operation) -> Any:
    """Send the example of an operation."""
    if described.name == "uploadDataset":
        line = b'{"prompt": "1 + 1 = ?", "completion": "2"}\n'
        return client.generic("POST", f"{path}?name=algebra&version=v1", line, "application/jsonl")
    query = {key: str(value) for key, value in described.example_query.items()}
    body = b"" if described.example is None else json.dumps(described.example).encode()
    return client.generic(
        method.upper(), path, body, content_type="application/json", query_params=query
    )


NEEDS_A_TRAINING = {
    "extendRun": 409,
    "removeArtifact": 404,
    "evaluateRun": 400,
    "judgeEvaluation": 400,
    "readRunEvaluation": 404,
    "readLeaderboard": 404,
    "makeBaseline": 404,
    "startCheck": 404,
    "readCheck": 404,
    "deleteBaseline": 404,
    "compareEvaluations": 422,  # two evaluations
    "startVoteRound": 400,
    "castVote": 404,
    "makePreferences": 409,
}


@pytest.mark.parametrize(("path", "method", "view", "described"), EVERY, ids=IDS)
def test_an_example_works(
    api: APIClient,
    make_example_run: Any,
    path: str,
    method: str,
    view: type[APIView],
    described: Operation,
):
    values = make_example_run(described)
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)

    response = send(api, path, method, described)

    expected = NEEDS_A_TRAINING.get(described.name, min(described.answers))
    assert response.status_code == expected, getattr(response, "content", b"")
    if response.streaming:
        for close in response._resource_closers:
            close()


@pytest.fixture
def make_example_run(
    api: APIClient, user: User, submit: Submit, make_dataset: Callable[..., Dataset]
) -> Any:
    """Make what an example is about; the values of its path variables."""

    def make(described: Operation) -> dict[str, str]:
        example = submit(dry_run=True, queued=True)
        make_dataset(name="evals")
        Dataset.objects.update(created_by=user)
        if "rasure" in described.name or described.name in ("eraseTraces", "unsealDataset"):
            set_role(user=user, role=Role.OPERATOR)
        if described.name != "cancelRun":
            sent = {"dataset_key": example.dataset_key, "model_id": "preset:tiny-llama"}
            run_id = api.post("/api/tunix/run", sent, format="json").json()["run_id"]
            assert Run.objects.get(pk=run_id).status == RunStatus.COMPLETED
        else:
            run_id = str(example.run_id)
        asked = {"dataset_key": example.dataset_key, "model_id": "preset:tiny-llama"}
        evaluation = api.post("/api/tunix/evaluations", asked, format="json").json()
        judgement = make_judgement(Evaluation.objects.get(pk=evaluation["run_id"]), by=user)
        return {
            "run_id": run_id,
            "evaluation_id": evaluation["run_id"],
            "set_key": evaluation["questions"]["key"],
            "check_id": run_id,
            "name": "gsm8k",
            "round_id": str(
                VoteRound.objects.create(
                    questions=EvaluationSet.objects.get(), seed=0, created_by=user
                ).pk
            ),
            "judgement_id": str(judgement.pk),
            "key": example.dataset_key,
            "import_id": str(make_import(described, user).pk),
            "erasure_id": str(Erasure.objects.create(trace_ids=[]).pk),
            "trace_id": str(Trace.objects.values_list("pk", flat=True)[0]),
            **{name: part.example for name, part in described.path.items() if name in FILES},
        }

    return make


def make_import(described: Operation, user: User) -> Import:
    """An import under way, or one that has left a line out, as the operation needs it."""
    fields: dict[str, Any] = {"file_name": "", "by": user}
    line = b'{"prompt": "1 + 1 = ?", "completion": "2"}\n'
    asked = ImportRequest(name="lines", version="v1", skip_bad=0.5)
    if described.name == "cancelImport":
        return submit_file(file=io.BytesIO(line), request=asked, **fields)
    if described.name in ("readColumns", "mapImport"):
        line = b'{"frage": "1 + 1 = ?", "antwort": "2"}\n'
        return keep_draft(file=io.BytesIO(line), request=asked, **fields)
    import_file(file=io.BytesIO(line + b"1\n"), request=asked, **fields)
    return Import.objects.get()


FILES = ("stream", "path")


@pytest.mark.parametrize(("path", "method", "view", "described"), EVERY, ids=IDS)
def test_an_example_is_what_the_schema_allows(
    path: str, method: str, view: type[APIView], described: Operation
):
    if described.example is not None:
        content = DOCUMENT["paths"][path][method]["requestBody"]["content"]["application/json"]
        validator(json.dumps(content["schema"])).validate(described.example)


# --- the page ---------------------------------------------------------------------------------


class TestPage:
    def test_shows_every_operation_and_every_model(self, local_client: Client):
        page = local_client.get("/api")
        text = page.content.decode()
        anchors = re.findall(r'\sid="([^"]+)"', text)
        assert page.status_code == 200
        assert {*IDS, *(f"model-{name}" for name in DOCUMENT["components"]["schemas"])} <= set(
            anchors
        )
        assert len(set(anchors)) == len(anchors)
        assert set(re.findall(r'href="#([^"]+)"', text)) <= {*anchors}

    def test_names_every_parameter_and_field(self):
        reference = read_reference()
        shown = {one["name"] for tag in reference["tags"] for o in tag["operations"]
                 for one in o["parameters"]}  # fmt: skip
        shown |= {one["name"] for model in reference["models"] for one in model["fields"]}
        assert {"limit", "run_id", "learning_rate", "dataset_key", "next_cursor"} <= shown

    def test_is_for_accounts_and_linked_from_every_page(self, local_client: Client, db: None):
        anonymous = Client(REMOTE_ADDR=FAR_AWAY).get("/api")
        assert (anonymous.status_code, anonymous["Location"]) == (302, "/login?next=/api")
        assert '<a href="/api">API</a>' in local_client.get("/").content.decode()

    def test_is_a_page_and_nothing_of_the_api(self):
        assert get_resolver("tunixrt.urls").resolve("/api").url_name == "reference"
