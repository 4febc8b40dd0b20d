"""The page on which a recipe is put together, its dry run, and the API of both."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from datasets.cleaning.recipe import OPERATIONS
from datasets.models import Dataset, Import
from datasets.services.curation import archive_trace
from datasets.tests.deriving import dataset_of, qa
from datasets.tests.factory import make_dataset, work_on

pytestmark = pytest.mark.django_db
PAGE = "/datasets/sums-v1/clean"
API = "/api/datasets/sums-v1/clean"
SAMPLE = {"operation": "sample", "n": 2}


def recipe(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": list(steps)})


class TestPage:
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_every_operation_has_its_fields(self, local_client: Client, operation: str) -> None:
        make_dataset(3)
        page = local_client.get(f"{PAGE}?operation={operation}").content.decode()
        for name in OPERATIONS[operation].model_fields.keys() - {"operation"}:
            assert f'name="step-{operation}-{name}"' in page

    def test_steps_are_added_and_removed(self, local_client: Client) -> None:
        make_dataset(3)
        fields = {"action": "add", "operation": "filter", "step-filter-where": "characters<9"}
        fields |= {"step-filter-matching": "drop", "recipe": recipe(SAMPLE)}
        answer = local_client.post(PAGE, fields)
        steps = json.loads(answer.context["form"]["recipe"].value())["steps"]
        assert [step["operation"] for step in steps] == ["sample", "filter"]
        assert steps[1] == {"operation": "filter", "where": "characters<9", "matching": "drop"}
        answer = local_client.post(PAGE, {"action": "remove-0", "recipe": recipe(*steps)})
        steps = json.loads(answer.context["form"]["recipe"].value())["steps"]
        assert [step["operation"] for step in steps] == ["filter"]

    @pytest.mark.parametrize(
        ("operation", "fields", "step"),
        [
            ("sample", {"share": "0.5", "part": "train", "seed": "3"}, {"share": 0.5, "seed": 3}),
            ("mask", {"kinds": ["email", "phone"]}, {"kinds": ["email", "phone"]}),
            (
                "map_fields",
                {"fields": '{"meta.a": "meta.b"}', "taken": "keep"},
                {"fields": {"meta.a": "meta.b"}, "taken": "keep"},
            ),
            (
                "near_duplicates",
                {"threshold": "0.9", "ngram": "5", "compare": "question", "keep": "first"},
                {"threshold": 0.9, "ngram": 5, "compare": "question", "keep": "first"},
            ),
            (
                "resplit",
                {"held_out": "0.1", "by": "meta", "field": "source", "seed": "0"},
                {"held_out": 0.1, "by": "meta", "field": "source"},
            ),
        ],
    )
    def test_fields_become_parameters(
        self, local_client: Client, operation: str, fields: dict[str, Any], step: dict[str, Any]
    ) -> None:
        make_dataset(3)
        sent = {f"step-{operation}-{name}": value for name, value in fields.items()}
        answer = local_client.post(PAGE, {"action": "add", "operation": operation} | sent)
        (added,) = json.loads(answer.context["form"]["recipe"].value())["steps"]
        assert added.items() >= ({"operation": operation} | step).items()

    @pytest.mark.parametrize(
        ("operation", "field", "value", "said"),
        [
            ("filter", "where", "colour:red", "Character 1"),
            ("filter", "where", "", "required"),
            ("sample", "n", "many", "no whole number"),
            ("sample", "n", "", "Give either n or share"),
            ("near_duplicates", "threshold", "0,8", "write 0.8"),
            ("mix", "weights", "{", "JSON object"),
            ("exact_duplicates", "keep", "last", "valid choice"),
        ],
    )
    def test_wrong_fields_are_named_and_nothing_is_added(
        self, local_client: Client, operation: str, field: str, value: str, said: str
    ) -> None:
        make_dataset(3)
        sent = {"action": "add", "operation": operation, f"step-{operation}-{field}": value}
        answer = local_client.post(PAGE, sent)
        errors = answer.context["step_form"].errors
        assert said in errors[field][0]
        assert not answer.context["form"]["recipe"].value()

    def test_examples_that_are_hidden_are_counted(self, local_client: Client, user: User) -> None:
        dataset = make_dataset(5)
        archive_trace(trace=dataset.items.all()[0].trace, by=user)
        page = local_client.post(PAGE, {"action": "preview", "recipe": recipe(SAMPLE)})
        assert "1 archived and 0 erased examples" in page.content.decode()

    def test_what_would_go(self, local_client: Client) -> None:
        make_dataset(5)
        page = local_client.post(PAGE, {"action": "preview", "recipe": recipe(SAMPLE)})
        assert page.context["report"]["left"] == 2
        assert page.content.decode().count('data-testid="report-example"') == 3
        assert Dataset.objects.count() == 1

    @pytest.mark.parametrize(
        ("fields", "field", "said"),
        [
            ({}, "recipe", "at least one step"),
            ({"recipe": "{"}, "recipe", "not JSON"),
            ({"recipe": recipe({"operation": "sample"})}, "recipe", "steps[0].n: Give either"),
            ({"recipe": recipe(SAMPLE), "parents": "none-v1"}, "__all__", "not found: none-v1"),
            ({"recipe": recipe({"operation": "merge"})}, "parents", "at least two datasets"),
        ],
    )
    def test_recipes_that_cannot_be_followed(
        self, local_client: Client, fields: dict[str, str], field: str, said: str
    ) -> None:
        make_dataset(3)
        answer = local_client.post(PAGE, {"action": "preview"} | fields)
        assert answer.status_code in (400, 404)
        assert said.replace("not JSON", "Is not JSON") in answer.context["form"].errors[field][0]

    def test_the_new_version_is_made(self, local_client: Client) -> None:
        dataset, other = make_dataset(3), make_dataset(2, name="more", first=10)
        sent = {"action": "make", "recipe": recipe({"operation": "merge"}), "parents": "more-v1"}
        sent |= {"name": "sums", "version": "v2", "description": "Both."}
        answer = local_client.post(PAGE, sent)
        row = work_on(Import.objects.get())
        assert (answer.status_code, answer["Location"]) == (302, f"/datasets/imports/{row.pk}")
        made = Dataset.objects.get(dataset_key="sums-v2")
        assert (made.size, made.description, made.created_by.username) == (5, "Both.", "local")
        assert set(made.parents.all()) == {dataset, other}
        assert made.provenance["recipe"] == {"steps": [{"operation": "merge"}]}
        assert [parent["fingerprint"] for parent in made.provenance["parents"]] == [
            dataset.fingerprint,
            other.fingerprint,
        ]
        page = local_client.get(f"/datasets/imports/{row.pk}").content.decode()
        assert 'href="/datasets/sums-v1"' in page

    def test_nothing_is_made_where_nothing_is_left(self, local_client: Client) -> None:
        make_dataset(3)
        step = {"operation": "filter", "where": "characters<1", "matching": "keep"}
        sent = {"action": "make", "recipe": recipe(step), "name": "sums", "version": "v2"}
        local_client.post(PAGE, sent)
        row = work_on(Import.objects.get())
        assert row.state == "failed"
        assert row.problem == "No example is left: step 1 (filter) left out the last."
        assert [dataset.dataset_key for dataset in Dataset.with_incomplete.all()] == ["sums-v1"]

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": "sums", "version": "v1"}, "version"),
            ({"name": "a/b", "version": "v1"}, "name"),
        ],
    )
    def test_a_name_that_cannot_be_had(
        self, local_client: Client, fields: dict[str, str], field: str
    ) -> None:
        make_dataset(3)
        answer = local_client.post(PAGE, {"action": "make", "recipe": recipe(SAMPLE)} | fields)
        assert answer.context["form"].errors[field]

    def test_texts_stay_texts(self, local_client: Client) -> None:
        dataset_of(qa("<script>alert(1)</script>"), qa("b"), name="sums")
        steps = recipe({"operation": "filter", "where": "-alert"})
        page = local_client.post(PAGE, {"action": "preview", "recipe": steps}).content.decode()
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


class TestApi:
    def test_dry_run(self, api: APIClient) -> None:
        make_dataset(5)
        body = {"recipe": {"steps": [SAMPLE]}}
        answer = api.post(f"{API}?dry_run=true", body, format="json")
        assert answer.status_code == 200
        assert (answer.json()["left"], answer.json()["steps"][0]["left_out"]) == (2, 3)

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            ({}, "recipe"),
            ({"recipe": 3}, "recipe"),
            ({"recipe": {"steps": [{"operation": "sample"}]}}, "recipe.steps[0].n"),
            ({"recipe": {"steps": [SAMPLE]}, "parents": "more-v1"}, "parents"),
            ({"recipe": {"steps": [{"operation": "merge"}]}}, "parents"),
            ({"recipe": {"steps": [SAMPLE]}, "x": 1}, "x"),
        ],
    )
    def test_what_is_wrong_is_named(self, api: APIClient, body: Any, place: str) -> None:
        make_dataset(5)
        answer = api.post(f"{API}?dry_run=true", body, format="json")
        assert answer.status_code == 400
        assert place in answer.json()

    def test_unknown_datasets(self, api: APIClient) -> None:
        assert api.post(API, {"recipe": {"steps": [SAMPLE]}}, format="json").status_code == 404
        make_dataset(3)
        body = {"recipe": {"steps": [{"operation": "merge"}]}, "parents": ["none-v1"]}
        answer = api.post(f"{API}?dry_run=true", body, format="json")
        assert answer.json()["detail"] == "Dataset not found: none-v1"

    def test_the_new_version_is_made(self, api: APIClient) -> None:
        make_dataset(3)
        body = {"recipe": {"steps": [SAMPLE]}, "name": "sums", "version": "v2"}
        answer = api.post(API, body, format="json")
        assert answer.status_code == 202
        assert answer.json()["dataset_key"] == "sums-v2"
        work_on(Import.objects.get())
        assert Dataset.objects.get(dataset_key="sums-v2").size == 2

    def test_a_key_that_is_taken(self, api: APIClient) -> None:
        make_dataset(3)
        body = {"recipe": {"steps": [SAMPLE]}, "name": "sums", "version": "v1"}
        assert api.post(API, body, format="json").status_code == 409
