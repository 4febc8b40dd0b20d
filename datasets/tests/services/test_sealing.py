"""Sealed datasets: what may be sealed, what is refused then, and the audit log."""

import io
import json
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from datasets.cleaning.derivation import dry_run
from datasets.cleaning.recipe import SealedParent, parse_recipe
from datasets.comparison.overlaps import compute_overlap
from datasets.imports import importing
from datasets.imports.importers import ImportRequest
from datasets.imports.importing import (
    import_file,
    open_skipped,
    submit_derivation,
    submit_file,
    work_on,
)
from datasets.models import Dataset, Import, SealedLook, Trace
from datasets.queries.listing import search_traces
from datasets.services.datasets import create_dataset
from datasets.services.refusals import InvalidTraces, UnknownTraces
from datasets.services.sealing import (
    LOOK_LASTS,
    NotSealable,
    note_look,
    seal_datasets,
    unseal_datasets,
)
from datasets.services.traces import create_traces
from datasets.storage.storing import StoredSealed
from tunixrt.refusals import NotAllowed
from tunixrt.roles import Role, set_role
from tunixrt.tests.clients import FAR_AWAY

pytestmark = pytest.mark.django_db
RECIPE = {"steps": [{"operation": "exact_duplicates"}]}


def item(number: int) -> dict[str, object]:
    return {"prompt": f"What is {number} + 1?", "final_answer": str(number + 1)}


def make(name: str, numbers: range, by: User) -> Dataset:
    ids = [trace.pk for trace in create_traces(items=map(item, numbers), by=by)]
    return create_dataset(name=name, version="v1", trace_ids=ids, by=by)


@pytest.fixture
def operator(db: None) -> User:
    account = User.objects.create_user("operator")
    set_role(user=account, role=Role.OPERATOR)
    return account


@pytest.fixture
def sealed(user: User) -> Dataset:
    dataset = make("secret", range(3), user)
    seal_datasets(datasets=[dataset], by=user)
    return dataset


def entries() -> list[tuple[str, str, str]]:
    rows = LogEntry.objects.order_by("pk").select_related("user")
    return [(row.user.username, row.object_repr, row.change_message) for row in rows]


class TestWhoAndWhat:
    def test_the_owner_seals_and_only_an_operator_unseals(
        self, sealed: Dataset, user: User, operator: User
    ):
        assert sealed.sealed_at is not None
        assert Trace.objects.filter(sealed_at=None).count() == 0
        with pytest.raises(NotAllowed, match="takes the role operator"):
            unseal_datasets(datasets=[sealed], by=user)
        unseal_datasets(datasets=[sealed], by=operator)
        assert sealed.sealed_at is None
        assert Trace.objects.filter(sealed_at=None).count() == 3
        assert entries() == [
            ("somebody", "secret-v1", "sealed"),
            ("operator", "secret-v1", "unsealed"),
        ]

    def test_others_do_not_seal_it(self, user: User):
        dataset = make("secret", range(3), user)
        with pytest.raises(NotAllowed):
            seal_datasets(datasets=[dataset], by=User.objects.create_user("other"))

    def test_what_is_sealed_stays_so_and_is_no_second_event(self, sealed: Dataset, user: User):
        moment = sealed.sealed_at
        seal_datasets(datasets=[sealed], by=user)
        assert sealed.sealed_at == moment
        assert len(entries()) == 1

    def test_datasets_that_share_an_example_are_sealed_and_unsealed_together(
        self, user: User, operator: User
    ):
        one, two = make("one", range(3), user), make("two", range(2, 5), user)
        with pytest.raises(NotSealable, match="not sealed: two-v1"):
            seal_datasets(datasets=[one], by=user)
        assert not Trace.objects.exclude(sealed_at=None).exists()
        assert entries() == []
        seal_datasets(datasets=[one, two], by=user)
        with pytest.raises(NotSealable, match="that is sealed: two-v1"):
            unseal_datasets(datasets=[one], by=operator)
        assert Trace.objects.filter(sealed_at=None).count() == 0
        unseal_datasets(datasets=[one, two], by=operator)
        assert Trace.objects.filter(sealed_at=None).count() == 5

    def test_an_import_that_has_stored_an_example_keeps_it_from_being_sealed(self, user: User):
        dataset = make("secret", range(3), user)
        other = make("other", range(2, 4), user)
        Dataset.objects.filter(pk=other.pk).update(complete=False)
        with pytest.raises(NotSealable, match="other-v1"):
            seal_datasets(datasets=[dataset], by=user)

    def test_too_many_examples(self, user: User, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("datasets.services.sealing.SEALED_MAX", 2)
        with pytest.raises(NotSealable, match="At most 2 examples"):
            seal_datasets(datasets=[make("secret", range(3), user)], by=user)


class TestNoOtherDatasetTakesThem:
    def test_of_stored_examples(self, sealed: Dataset, operator: User):
        ids = list(Trace.objects.values_list("pk", flat=True))
        with pytest.raises(UnknownTraces):
            create_dataset(name="copy", version="v1", trace_ids=ids, by=operator)

    def test_by_storing_them_again(self, sealed: Dataset, user: User):
        with pytest.raises(InvalidTraces, match="is in a sealed dataset"):
            create_traces(items=[item(7), item(1)], by=user)
        assert Trace.objects.count() == 3

    @pytest.mark.parametrize("skip_bad", [None, 0.5])
    def test_by_an_import(self, sealed: Dataset, user: User, skip_bad: float | None):
        rows = [json.dumps(item(number)) for number in range(2, 5)]
        file = io.BytesIO("\n".join(rows).encode())
        asked = ImportRequest(name="copy", version="v1", skip_bad=skip_bad)
        row = submit_file(file=file, request=asked, file_name="", by=user)
        work_on(row.pk)
        row.refresh_from_db()
        if skip_bad is None:
            assert (row.state, row.dataset) == ("failed", None)
            assert "is in a sealed dataset" in str(row.detail)
        else:
            assert (row.state, row.lines_skipped, row.examples_stored) == ("completed", 1, 2)
            with open_skipped(row) as lines:
                assert json.loads(lines.read())["content"] is None  # no copy is kept

    def test_by_an_import_that_had_read_the_file_before(
        self, user: User, monkeypatch: pytest.MonkeyPatch
    ):
        dataset = make("secret", range(3), user)
        file = io.BytesIO(json.dumps(item(1)).encode())
        store = importing._store_all

        def seal_and_store(*arguments):
            seal_datasets(datasets=[dataset], by=user)
            return store(*arguments)

        monkeypatch.setattr(importing, "_store_all", seal_and_store)
        with pytest.raises(StoredSealed, match="1 of the examples"):
            import_file(file=file, request=ImportRequest(name="copy", version="v1"), by=user)
        assert not Dataset.with_incomplete.filter(name="copy").exists()

    def test_by_a_recipe_not_even_an_operator_s(self, sealed: Dataset, operator: User):
        with pytest.raises(SealedParent, match="no dataset is made of it"):
            dry_run(RECIPE, [sealed])
        with pytest.raises(SealedParent):
            submit_derivation(
                recipe=parse_recipe(RECIPE),
                parents=[sealed],
                name="copy",
                version="v1",
                by=operator,
            )
        assert not Import.objects.exists()

    def test_by_a_recipe_whose_parent_is_sealed_before_it_is_read(self, user: User):
        dataset = make("secret", range(3), user)
        row = submit_derivation(
            recipe=parse_recipe(RECIPE), parents=[dataset], name="copy", version="v1", by=user
        )
        seal_datasets(datasets=[dataset], by=user)
        work_on(row.pk)
        row.refresh_from_db()
        assert row.state == "failed"
        assert "secret-v1 is sealed" in row.problem
        assert not Dataset.with_incomplete.filter(name="copy").exists()


class TestRoutes:
    def test_api(self, api: APIClient, user: User, operator: User):
        make("one", range(3), user)
        make("two", range(2, 5), user)
        url = "/api/datasets/one-v1/seal"
        assert api.post(url).status_code == 409
        answer = api.post(f"{url}?also=two-v1")
        assert answer.status_code == 200 and answer.json()["sealed_at"]
        assert api.get("/api/datasets").json()["data"][0]["sealed_at"]
        assert api.post(f"{url}?also=gone-v1").status_code == 404
        assert api.delete(url).status_code == 403
        api.force_authenticate(operator)
        assert api.delete(f"{url}?also=two-v1").json()["sealed_at"] is None

    def test_page(self, client: Client, user: User, operator: User):
        make("secret", range(3), user)
        url = "/datasets/secret-v1/seal"
        client.force_login(user)
        assert 'data-testid="seal-button"' in client.get("/datasets/secret-v1").content.decode()
        assert client.post(url, {"sealed": "true"}).status_code == 400  # not confirmed
        page = client.post(url, {"sealed": "true", "confirmed": "true"}, follow=True)
        text = page.content.decode()
        assert 'data-testid="is-sealed"' in text and "What is" not in text
        assert 'data-testid="seal-button"' not in text and "unseal-button" not in text
        assert 'data-testid="sealed"' in client.get("/datasets").content.decode()
        assert client.post(url, {"sealed": "false", "confirmed": "true"}).status_code == 403
        client.force_login(operator)
        assert 'data-testid="unseal-button"' in client.get("/datasets/secret-v1").content.decode()
        client.post(url, {"sealed": "false", "confirmed": "true"})
        assert Dataset.objects.get().sealed_at is None


class TestLooks:
    def test_a_look_is_an_entry_and_pages_are_not_many(
        self, sealed: Dataset, user: User, operator: User
    ):
        client = APIClient(REMOTE_ADDR=FAR_AWAY)
        client.force_authenticate(operator)
        trace = Trace.objects.all()[0]
        for _ in range(3):
            assert client.get("/api/datasets/secret-v1/export.jsonl").status_code == 200
            assert client.get(f"/api/traces/{trace.pk}").status_code == 200
        look = ("operator", "secret-v1", "read sealed examples")
        assert entries()[1:] == [look]
        SealedLook.objects.update(at=SealedLook.objects.get().at - LOOK_LASTS - timedelta(1))
        client.get(f"/api/traces/{trace.pk}")
        assert entries()[1:] == [look, look]
        client.force_authenticate(user)
        for path in ("datasets/secret-v1/export.jsonl", f"traces/{trace.pk}"):
            assert client.get(f"/api/{path}").status_code == 404
        assert len(entries()) == 3

    def test_a_comparison_is_an_entry_for_every_account(self, sealed: Dataset, user: User):
        compute_overlap(make("open", range(10, 13), user), sealed, by=user)
        assert entries()[1:] == [("somebody", "secret-v1", "compared with open-v1")]

    def test_of_two_looks_at_one_moment_one_is_written(self, sealed: Dataset, operator: User):
        note_look(dataset=sealed, by=operator)
        SealedLook.objects.update(at=SealedLook.objects.get().at - LOOK_LASTS)
        stale = SealedLook.objects.get().at
        note_look(dataset=sealed, by=operator)
        # the other one has read the same row
        assert not SealedLook.objects.filter(at=stale).update(at=stale)
        assert len(entries()) == 3

    def test_a_sealed_example_is_as_one_that_is_not_there(self, sealed: Dataset, api: APIClient):
        trace = Trace.objects.all()[0]
        gone = "0198c2d3-8b1d-7c39-9a55-5d0c7a1f2e10"
        for path in ("", "/uses", "/archive", "/rendered?model_id=preset:tiny-llama"):
            ask = api.post if path == "/archive" else api.get
            answers = [ask(f"/api/traces/{each}{path}") for each in (trace.pk, gone)]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].json() == {"detail": f"Trace not found: {trace.pk}"}


class TestCosts:
    def test_datasets_that_are_not_sealed_cost_no_query_more(
        self, api: APIClient, user: User, sealed: Dataset
    ):
        """A list, an example, and an export ask for what they asked before."""
        dataset = make("open", range(10, 13), user)
        trace = dataset.items.all()[0].trace_id
        for path, most in (("traces", 1), (f"traces/{trace}", 1), ("datasets/open-v1", 1)):
            with CaptureQueriesContext(
                connection,
            ) as queries:
                assert api.get(f"/api/{path}").status_code == 200
            asked = [one["sql"] for one in queries if "SAVEPOINT" not in one["sql"]]
            assert len(asked) == most, asked

    def test_a_list_passes_over_sealed_examples_in_the_index(self, db: None):
        if connection.vendor == "postgresql":
            pytest.skip("the plan of SQLite")
        rows = search_traces(None).order_by("-created_at", "-pk").values("pk")[:25]
        sql, parameters = rows.query.sql_with_params()
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            plan = [row[3] for row in cursor.fetchall()]
        assert plan == ["SCAN datasets_trace USING INDEX ix_traces_listed"]
