"""What may change about a dataset: description, licence, source, archive; by whom; and what a new
version inherits."""

import json
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from datasets.cleaning.recipe import parse_recipe
from datasets.imports.importing import submit_derivation
from datasets.models import Dataset, Trace
from datasets.services.curation import (
    archive_dataset,
    edit_dataset,
    inherited_origin,
    restore_dataset,
)
from datasets.services.datasets import MAX_LICENCE
from datasets.services.refusals import InvalidDataset
from datasets.tests.factory import (
    import_upload,
    jsonl_file,
    make_dataset,
    trace_body,
    work_on,
)
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
KEY = "/api/datasets/sums-v1"


@pytest.fixture
def own(user: User) -> Dataset:
    dataset = make_dataset()
    Dataset.objects.filter(pk=dataset.pk).update(created_by=user)
    dataset.refresh_from_db()
    return dataset


def told() -> list[str]:
    return list(LogEntry.objects.order_by("pk").values_list("change_message", flat=True))


def test_the_owner_edits_what_a_dataset_says_and_the_fingerprint_stays(
    own: Dataset, api: APIClient
) -> None:
    answer = api.patch(KEY, {"licence": "CC-BY-4.0", "source": "a book"}, format="json")
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert (body["licence"], body["source"]) == ("CC-BY-4.0", "a book")
    assert body["fingerprint"] == own.fingerprint
    assert told() == ["changed licence, source"]
    assert api.patch(KEY, {"licence": "CC-BY-4.0"}, format="json").status_code == 200
    assert len(told()) == 1  # nothing changed


@pytest.mark.parametrize(
    "body",
    [
        {"name": "other"},
        {"fingerprint": "sha256:0"},
        {"licence": None},
        {"licence": 4},
        {"licence": "x" * (MAX_LICENCE + 1)},
        {"licence": "CC\u202eBY"},
        {"description": "\ud800"},
        {"description": "a\x00b"},
        [],
    ],
)
def test_an_edit_that_is_wrong_changes_nothing(own: Dataset, api: APIClient, body: Any) -> None:
    sent = json.dumps(body)
    assert api.patch(KEY, sent, content_type="application/json").status_code == 400
    own.refresh_from_db()
    assert (own.description, own.licence, own.source, told()) == ("", "", "", [])


def test_a_wrong_field_beside_a_right_one_changes_nothing(own: Dataset, user: User) -> None:
    with pytest.raises(InvalidDataset) as caught:
        edit_dataset(dataset=own, changes={"source": "fine", "size": 3}, by=user)
    assert list(caught.value.errors) == ["size"]
    own.refresh_from_db()
    assert own.source == ""


def test_others_and_viewers_may_neither_edit_nor_archive(own: Dataset, client: Client) -> None:
    for role in (Role.VIEWER, Role.RESEARCHER):
        stranger = User.objects.create(username=role.label)
        set_role(user=stranger, role=role)
        api = APIClient()
        api.force_authenticate(stranger)
        client.force_login(stranger)
        assert api.patch(KEY, {"licence": "MIT"}, format="json").status_code == 403
        assert api.post(f"{KEY}/archive").status_code == 403
        assert api.delete(f"{KEY}/archive").status_code == 403
        assert client.post("/datasets/sums-v1/edit", {"edit-licence": "MIT"}).status_code == 403
        assert client.post("/datasets/sums-v1/archive", {"archived": "true"}).status_code == 403
        assert 'data-testid="curation"' not in client.get("/datasets/sums-v1").content.decode()
    own.refresh_from_db()
    assert (own.licence, own.archived_at) == ("", None)


def test_an_archived_dataset_is_hidden_from_lists_and_still_read_by_key(
    own: Dataset, api: APIClient
) -> None:
    def keys(query: str = "") -> list[str]:
        return [row["dataset_key"] for row in api.get(f"/api/datasets?{query}").json()["data"]]

    make_dataset(name="kept")
    first = api.post(f"{KEY}/archive").json()["archived_at"]
    assert api.post(f"{KEY}/archive").json()["archived_at"] == first is not None
    assert keys() == ["kept-v1"]
    assert keys("q=sums") == []
    assert keys("archived=true") == keys("archived=true&q=sums") == ["sums-v1"]
    assert api.get(KEY).json()["archived_at"] == first
    assert api.get(f"{KEY}/export.jsonl").status_code == 200
    assert api.delete(f"{KEY}/archive").json()["archived_at"] is None
    assert api.delete(f"{KEY}/archive").status_code == 200
    assert sorted(keys()) == ["kept-v1", "sums-v1"]
    assert told() == ["archived", "taken out of the archive"]


def test_the_pages_edit_and_archive(own: Dataset, client: Client, user: User) -> None:
    client.force_login(user)
    fields = {"edit-description": "one\r\ntwo", "edit-licence": "MIT", "edit-source": ""}
    assert client.post("/datasets/sums-v1/edit", fields).status_code == 302
    own.refresh_from_db()
    assert (own.description, own.licence) == ("one\ntwo", "MIT")
    wrong = client.post("/datasets/sums-v1/edit", fields | {"edit-licence": "x\u202ey"})
    assert wrong.status_code == 400
    assert "U+202E" in wrong.content.decode()
    assert client.post("/datasets/sums-v1/archive", {"archived": "x"}).status_code == 400
    assert client.post("/datasets/sums-v1/archive", {"archived": "true"}).status_code == 302
    assert 'data-testid="is-archived"' in client.get("/datasets/sums-v1").content.decode()
    assert "sums-v1" not in client.get("/datasets").content.decode().split("<main")[1]
    assert "sums-v1" in client.get("/datasets?archived=true").content.decode()
    assert client.post("/datasets/sums-v1/archive", {"archived": "false"}).status_code == 302
    own.refresh_from_db()
    assert own.archived_at is None


def said(key: str, licence: str) -> Dataset:
    return Dataset(dataset_key=key, licence=licence)


def test_what_all_parents_say_is_inherited_and_what_differs_is_listed() -> None:
    same = inherited_origin([said("a-v1", "MIT"), said("b-v1", "MIT")])
    assert same == {"licence": "MIT", "source": ""}
    mixed = inherited_origin([said("a-v1", "MIT"), said("b-v1", "")])
    assert mixed["licence"] == "MIT (a-v1); not stated (b-v1)"
    long = [said(f"{letter * 90}-v1", letter) for letter in "abc"]
    assert inherited_origin(long)["licence"] == "a; b; c"
    longest = [said("a-v1", "a" * 150), said("b-v1", "b" * 150)]
    assert inherited_origin(longest)["licence"] == (
        "2 different ones, see the 2 datasets that it was made from"
    )


def test_a_new_version_by_a_recipe_has_the_licence_of_its_parent(own: Dataset, user: User) -> None:
    edit_dataset(dataset=own, changes={"licence": "ODC-By", "source": "a page"}, by=user)
    recipe = parse_recipe({"steps": [{"operation": "exact_duplicates"}]})
    work_on(submit_derivation(recipe=recipe, parents=[own], name="sums", version="v2", by=user))
    made = Dataset.objects.get(dataset_key="sums-v2")
    assert (made.licence, made.source) == ("ODC-By", "a page")


def test_archiving_changes_nothing_else(own: Dataset, user: User) -> None:
    before = Dataset.objects.filter(pk=own.pk).values().get()
    restore_dataset(dataset=archive_dataset(dataset=own, by=user), by=user)
    assert Dataset.objects.filter(pk=own.pk).values().get() == before


class TestExamples:
    @pytest.fixture
    def trace(self, own: Dataset, user: User) -> Trace:
        """The first of the dataset's three."""
        trace = Trace.objects.get(prompt="0+1=?")
        trace.created_by = user
        trace.save()
        return trace

    @pytest.fixture
    def address(self, trace: Trace) -> str:
        return f"/api/traces/{trace.pk}"

    def test_that_are_archived_are_hidden_from_lists_and_still_shown(
        self, api: APIClient, address: str, trace: Trace
    ) -> None:
        def prompts(query: str = "") -> list[str]:
            return sorted(row["prompt"] for row in api.get(f"/api/traces?{query}").json()["data"])

        first = api.post(f"{address}/archive").json()["archived_at"]
        assert api.post(f"{address}/archive").json()["archived_at"] == first is not None
        assert prompts() == prompts("q=1=") == ["1+1=?", "2+1=?"]
        assert prompts("archived=true") == prompts("archived=true&q=1=") == ["0+1=?"]
        assert api.get(address).json()["archived_at"] == first
        assert api.get(f"{address}/uses").status_code == 200
        assert api.delete(f"{address}/archive").json()["archived_at"] is None
        assert api.delete(f"{address}/archive").status_code == 200
        assert len(prompts()) == 3
        entries = LogEntry.objects.filter(object_id=str(trace.pk)).order_by("pk")
        assert [entry.change_message for entry in entries] == [
            "archived", "taken out of the archive",
        ]  # fmt: skip
        assert {entry.object_repr for entry in entries} == {str(trace.pk)}

    def test_datasets_keep_them(self, own: Dataset, api: APIClient, address: str) -> None:
        before = api.get(f"{KEY}/export.jsonl").getvalue()
        api.post(f"{address}/archive")
        assert api.get(f"{KEY}/export.jsonl").getvalue() == before
        assert before.count(b"\n") == 3
        assert api.get(KEY).json()["size"] == 3

    def test_new_datasets_do_not_get_them(
        self, own: Dataset, api: APIClient, address: str, trace: Trace, user: User
    ) -> None:
        api.post(f"{address}/archive")
        body = {"name": "new", "version": "v1", "trace_ids": [str(trace.pk)]}
        answer = api.post("/api/datasets", body, format="json")
        assert answer.status_code == 400
        assert answer.json()["trace_ids"] == [
            f"These are archived; leave them out, or take them out of the archive: {trace.pk}."
        ]
        recipe = {"steps": [{"operation": "exact_duplicates"}]}
        dry = api.post(f"{KEY}/clean?dry_run=true", {"recipe": recipe}, format="json").json()
        assert (dry["examples"], dry["archived"], dry["erased"], dry["left"]) == (3, 1, 0, 2)
        work_on(
            submit_derivation(
                recipe=parse_recipe(recipe), parents=[own], name="sums", version="v2", by=user
            )
        )
        made = Dataset.objects.get(dataset_key="sums-v2")
        assert (made.size, made.provenance["report"]["archived"]) == (2, 1)

    def test_what_holds_the_same_content_is_stored_and_they_stay_archived(
        self, api: APIClient, address: str, trace: Trace
    ) -> None:
        api.post(f"{address}/archive")
        assert api.post("/api/traces", trace_body(0), format="json").json()["id"] == str(trace.pk)
        dataset = import_upload(file=jsonl_file(trace_body(0)), name="file", version="v1")
        assert [item.trace_id for item in dataset.items.all()] == [trace.pk]
        trace.refresh_from_db()
        assert trace.archived_at is not None

    def test_the_pages_archive_them(
        self, client: Client, user: User, trace: Trace, own: Dataset
    ) -> None:
        client.force_login(user)
        page = f"/traces/{trace.pk}"
        assert client.post(f"{page}/archive", {"archived": "x"}).status_code == 400
        assert client.post(f"{page}/archive", {"archived": "true"})["Location"] == page
        assert 'data-testid="is-archived"' in client.get(page).content.decode()
        assert page not in client.get("/traces").content.decode()
        assert page in client.get("/traces?archived=true").content.decode()
        assert client.get("/datasets/sums-v1").content.decode().count("archived-example") == 1
        assert client.post(f"{page}/archive", {"archived": "false"}).status_code == 302
        trace.refresh_from_db()
        assert trace.archived_at is None

    def test_erased_ones_are_not_archived(
        self, client: Client, user: User, api: APIClient, trace: Trace, address: str
    ) -> None:
        Trace.objects.filter(pk=trace.pk).update(erased_at=timezone.now())
        assert api.post(f"{address}/archive").status_code == 409
        client.force_login(user)
        page = f"/traces/{trace.pk}"
        client.post(f"{page}/archive", {"archived": "true"})
        assert 'data-testid="archive"' not in client.get(page).content.decode()
        trace.refresh_from_db()
        assert trace.archived_at is None

    def test_of_others_are_not_archived(self, client: Client, trace: Trace, address: str) -> None:
        stranger = User.objects.create(username="stranger")
        api = APIClient()
        api.force_authenticate(stranger)
        client.force_login(stranger)
        for answer in (api.post(f"{address}/archive"), api.delete(f"{address}/archive")):
            assert answer.status_code == 403
        page = f"/traces/{trace.pk}"
        assert client.post(f"{page}/archive", {"archived": "true"}).status_code == 403
        assert 'data-testid="archive"' not in client.get(page).content.decode()

    @pytest.mark.parametrize(("id", "status"), [("x", 422), (str(UUID(int=1)), 404)])
    def test_that_are_not_there_are_said(self, api: APIClient, id: str, status: int) -> None:
        assert api.post(f"/api/traces/{id}/archive").status_code == status
