"""Names of runs: given, made and changed, where they are shown, and what they are found by."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from runs.models import MetricSeries, Run, RunNameKey, WebhookDelivery
from runs.queries.filters import condition, parse
from runs.services.annotations import annotate_run
from runs.services.finishing import finish_run
from runs.services.retrying import extend_run, retry_run
from runs.services.run_requests import clean_name
from runs.spec.naming import (
    ADJECTIVES,
    NAME_MAX_LENGTH,
    NOUNS,
    make_name,
    name_of_extension,
    name_of_retry,
    search_key,
    search_keys,
)
from runs.tests.conftest import Submit

RunDry = Callable[..., dict[str, Any]]
# HTML and a right-to-left override of an old name, which must stay within itself
HOSTILE = "Ärger <b>&\u202e"


def found(text: str, by: User) -> set[Run]:
    return set(Run.objects.filter(condition(parse(text), by=by)))


# --- made and given


def test_a_made_name_is_two_words_and_a_number() -> None:
    assert re.fullmatch(r"[a-z]{3,8}-[a-z]{3,8}-[1-9][0-9]{3}", make_name())
    assert len({make_name() for _ in range(50)}) > 1
    for words in (ADJECTIVES, NOUNS):
        assert len(set(words)) == len(words)


def test_a_run_without_a_name_gets_one_and_its_request_stays_as_it_was(run_dry: RunDry) -> None:
    answer = run_dry()
    assert re.fullmatch(r"[a-z]+-[a-z]+-[0-9]{4}", answer["name"])
    assert "name" not in answer["config"]
    assert run_dry(name=None)["name"] != ""


def test_a_given_name_is_kept_without_the_blanks_around_it(run_dry: RunDry) -> None:
    answer = run_dry(name="  seed 7, γ = 0.1 ")
    assert answer["name"] == answer["config"]["name"] == "seed 7, γ = 0.1"
    assert run_dry(name="x" * NAME_MAX_LENGTH)["name"] == "x" * NAME_MAX_LENGTH


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "a\nb", "a\x7f", 5, True, ["a"], {}])
def test_what_is_no_name_is_refused(
    api: APIClient, body: dict[str, Any], run_dry: RunDry, name: Any
) -> None:
    for answer in (
        api.post("/api/tunix/run", body | {"name": name}, format="json"),
        api.patch(f"/api/tunix/runs/{run_dry()['run_id']}", {"name": name}, format="json"),
    ):
        assert answer.status_code == 400
        assert "A name is text of 1 to 128 characters" in answer.json()["name"][0]


@pytest.mark.parametrize("name", ["\ud800", "a\x00b"])
def test_what_cannot_be_stored_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="A name is text"):
        clean_name(name)


UNREADABLE = [
    "\u200b",
    "\u3164",
    "\u115f\u2800",
    "\ufe0f",
    "\u2066iso",
    "abc\u202egnp.exe",
    "a\u2028b",
    "a\u200db",
    "\ue000",
    "a\u00ad",
    "a\x9bb",
]


@pytest.mark.parametrize("name", UNREADABLE, ids=ascii)
def test_names_and_tags_that_cannot_be_seen_or_turn_the_text_are_refused(
    api: APIClient, body: dict[str, Any], run_dry: RunDry, name: str
) -> None:
    path = f"/api/tunix/runs/{run_dry()['run_id']}"
    for field, value in (("name", name), ("tags", [name])):
        for answer in (
            api.post("/api/tunix/run", body | {field: value}, format="json"),
            api.patch(path, {field: value}, format="json"),
        ):
            assert (answer.status_code, field in answer.json()) == (400, True)
            assert re.search(
                r"must (not hold U\+|hold a character that can be seen)", answer.json()[field][0]
            )


@pytest.mark.parametrize(
    "name",
    [
        "👩\u200d🚀",
        "❤\ufe0f\u200d🔥",
        "🧑🏽\u200d⚖\ufe0f",
        "می\u200cخواهم",
        "क्\u200dष",
        "ක්\u200d",
        "e\u0301",
        "日本語",
        "a\u00a0b",
    ],
)
def test_joiners_that_spell_something_are_part_of_a_name(name: str) -> None:
    assert clean_name(name) == name


def test_runs_with_such_names_and_tags_keep_them(
    submit: Submit, user: User, api: APIClient, local_client: Client
) -> None:
    run = submit(tags=["odd"], dry_run=False)
    run.tags.update(name="o\u200bdd")
    Run.objects.filter(pk=run.pk).update(
        name="a\u202eb", config=run.config | {"tags": ["o\u200bdd"]}
    )
    run.refresh_from_db()
    finish_run(run=run, status="cancelled", reason="test", by="test")

    retry = retry_run(run=run, by=user)
    assert (retry.name, [tag.name for tag in retry.tags.all()]) == ("a\u202eb #2", ["o\u200bdd"])
    changes = {"name": "a\u202eb", "tags": ["o\u200bdd", "new"]}
    assert api.patch(f"/api/tunix/runs/{run.pk}", changes, format="json").status_code == 200
    form = {"name": "a\u202eb", "tags": "o\u200bdd", "notes": "new"}
    assert (
        "Name, tags and notes saved."
        in local_client.post(f"/runs/{run.pk}/annotate", form, follow=True).content.decode()
    )
    run.refresh_from_db()
    assert (run.name, run.notes) == ("a\u202eb", "new")


def test_a_repeated_request_gets_the_name_of_the_first(run_dry: RunDry) -> None:
    first, again = run_dry(client_request_id="once"), run_dry(client_request_id="once")
    assert (again["run_id"], again["name"]) == (first["run_id"], first["name"])


def test_retry_and_extension_are_named_after_their_run(submit: Submit, user: User) -> None:
    run = submit(name="mine")
    finish_run(run=run, status="cancelled", reason="test", by="test")
    retry = retry_run(run=run, by=user)
    finish_run(run=retry, status="cancelled", reason="test", by="test")
    assert (retry.name, retry_run(run=retry, by=user).name) == ("mine #2", "mine #3")


def test_names_of_retries_and_extensions_fit() -> None:
    assert name_of_retry("mine", 2) == "mine #2"
    assert name_of_retry("mine #2", 3) == "mine #3"
    assert name_of_extension("mine", 1, "epoch") == "mine +1 epoch"
    assert name_of_extension("mine +1 epoch", 200, "step") == "mine +1 epoch +200 steps"
    longest = name_of_extension("x" * NAME_MAX_LENGTH, 10**8, "step")
    assert len(longest) == NAME_MAX_LENGTH
    assert longest.endswith("x… +100000000 steps")


# --- shown


def test_every_answer_of_the_api_has_it(api: APIClient, run_dry: RunDry) -> None:
    run_id = run_dry(name="mine")["run_id"]
    for path in ("", "/status", "/metrics"):
        assert api.get(f"/api/tunix/runs/{run_id}{path}").json()["name"] == "mine"
    assert [row["name"] for row in api.get("/api/tunix/runs").json()["data"]] == ["mine"]


def test_the_webhook_has_it(submit: Submit) -> None:
    finish_run(
        run=submit(name="mine", webhook_url="https://example.org/x"),
        status="cancelled",
        reason="test",
        by="test",
    )
    assert WebhookDelivery.objects.get().payload["name"] == "mine"


def test_pages_show_it_within_itself(
    submit: Submit, local_client: Client, admin_client: Client
) -> None:
    run, other = submit(name="mine"), submit(name="other")
    Run.objects.filter(pk=run.pk).update(name=HOSTILE)
    escaped = "Ärger &lt;b&gt;&amp;\u202e"
    pages = {
        "/": f"<bdi>{escaped}</bdi>",
        f"/runs/{run.pk}": f"{escaped}</bdi>",
        f"/runs/{run.pk}/samples": f"<bdi>{escaped}</bdi>",
        f"/runs/compare?ids={run.pk},{other.pk}": f"<bdi>{escaped}</bdi>",
        f"/runs/chosen?do=cancel&ids={run.pk}": f"<bdi>{escaped}</bdi>",
        f"/runs/new?clone={run.pk}": f"<bdi>{escaped}</bdi>",
    }
    for path, shown in pages.items():
        page = local_client.get(path).content.decode()
        assert shown in page, path
        assert "<b>&" not in page, path
    for path in ("/admin/runs/run/", reverse("admin:runs_queue")):
        assert escaped in admin_client.get(path).content.decode(), path
    assert (
        local_client.get(f"/runs/compare.csv?ids={run.pk},{other.pk}")
        .content.decode()
        .count("other")
        == 1
    )


def test_what_belongs_to_a_run_says_its_name(
    submit: Submit, user: User, local_client: Client, admin_client: Client
) -> None:
    run = submit(name="mine", tags=["t"], webhook_url="https://example.org/x", dry_run=False)
    MetricSeries.objects.create(
        run=run, name="loss", count=1, first=1, last=1, minimum=1, maximum=1, last_step=1
    )
    finish_run(run=run, status="cancelled", reason="test", by="test")
    for name in ("runevent", "webhookdelivery", "runtag", "metricseries"):
        assert (
            f"{run.pk}</a> <bdi>mine</bdi>"
            in admin_client.get(f"/admin/runs/{name}/").content.decode()
        ), name
    retry = retry_run(run=run, by=user)
    assert (
        f"{str(retry.pk)[:8]}</a> <bdi>mine #2</bdi>"
        in local_client.get(f"/runs/{run.pk}").content.decode()
    )
    assert (
        f"{str(run.pk)[:8]}</a> <bdi>mine</bdi>"
        in local_client.get(f"/runs/{retry.pk}").content.decode()
    )
    assert (
        f"{retry.pk}</a> <bdi>mine #2</bdi>"
        in admin_client.get(f"/admin/runs/run/{run.pk}/change/").content.decode()
    )


# --- changed


def test_it_is_changed_by_patch_and_then_found_by_its_new_name_alone(
    api: APIClient, run_dry: RunDry, user: User
) -> None:
    run = Run.objects.get(pk=run_dry(name="old words")["run_id"])
    answer = api.patch(f"/api/tunix/runs/{run.pk}", {"name": " new sounds "}, format="json")
    assert (answer.status_code, answer.json()["name"]) == (200, "new sounds")
    assert (found("name:words", user), found("name:sounds", user)) == (set(), {run})
    assert run.events.filter(reason="name changed").count() == 1


def test_it_is_changed_on_the_runs_page(submit: Submit, local_client: Client) -> None:
    run = submit(name="old")
    page = local_client.post(
        f"/runs/{run.pk}/annotate", {"name": "new", "tags": "a", "notes": ""}, follow=True
    ).content.decode()
    assert "Name, tags and notes saved." in page
    assert 'name="name" id="id_name" value="new"' in page
    page = local_client.post(
        f"/runs/{run.pk}/annotate", {"name": " "}, follow=True
    ).content.decode()
    assert "Nothing was changed. A name is text of 1 to 128 characters" in page
    run.refresh_from_db()
    assert run.name == "new"


def test_a_clone_gets_a_name_of_its_own(submit: Submit, local_client: Client) -> None:
    page = local_client.get(f"/runs/new?clone={submit(name='mine').pk}").content.decode()
    assert re.search(r'<input type="text" name="name"(?![^>]*value)', page)


# --- found


@pytest.mark.parametrize(
    "text",
    [
        "name:brisk",
        "name:BRISK-OT",
        "name:otter",
        "name:otter-4127",
        "name:4127",
        "otter",
        "name:#2",
        'name:"4127 #2"',
        '"Otter-41"',
    ],
)  # fmt: skip
def test_finds_it_from_the_beginning_of_any_word_on(submit: Submit, user: User, text: str) -> None:
    run = submit(name="Brisk-Otter-4127 #2")
    submit(name="brisking-lotter-04127")
    submit(name="plain")
    assert found(text, user) - found("name:brisking", user) == {run}


@pytest.mark.parametrize(
    "text", ["name:tter", "name:other", 'name:"otter plain"', 'name:"otter 4"', "name:#4127"]
)
def test_finds_nothing_else(submit: Submit, user: User, text: str) -> None:
    submit(name="brisk-otter-4127")
    assert found(text, user) == set()


def test_finds_names_whatever_their_case_and_form(submit: Submit, user: User) -> None:
    run = submit(name="Straße ÉTÉ")
    assert found("name:STRASSE", user) == found("name:e\u0301te\u0301", user) == {run}


def test_finds_more_than_a_query_lists(
    submit: Submit, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {submit(name=f"sweep {number}") for number in range(4)}
    submit(name="other")
    monkeypatch.setattr("runs.queries.filters.LISTED_MAX", 3)
    assert found("name:sweep", user) == found("sweep", user) == runs
    assert found("name:sweep name:other", user) == set()


@pytest.mark.parametrize("listed", [2000, 1])
def test_signs_before_a_word_are_looked_for_too(
    submit: Submit, user: User, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    monkeypatch.setattr("runs.queries.filters.LISTED_MAX", listed)
    second, percent = submit(name="brisk-otter-4127 #2"), submit(name="100 %2_a")
    submit(name="brisk-otter-2000"), submit(name="2 more"), submit(name="x2_a")
    for text in ('name:"#2"', "name:#2", "#2", 'name:" #2"'):
        assert found(text, user) == {second}, text
    assert found("name:%2_", user) == {percent}
    assert found("name:-OTTER", user) >= {second}
    assert found("name:#otter", user) == found('name:"-- 2"', user) == set()


@pytest.mark.parametrize("text", ["name:#", "name:%", "name:_", 'name:"★ !"'])
def test_signs_alone_are_no_part_of_a_name_to_search(api: APIClient, user: User, text: str) -> None:
    answer = api.get("/api/tunix/runs", {"q": text})
    assert answer.status_code == 422
    assert "put a letter or a digit beside" in answer.content.decode()


def test_one_with_signs_alone_is_found_by_them_as_a_word(submit: Submit, user: User) -> None:
    run = submit(name="★!")
    submit(name="★ other")
    assert found("★", user) == {run}


@given(st.text(min_size=1, max_size=NAME_MAX_LENGTH).filter(lambda text: text.strip()))
def test_any_name_is_found_by_itself(name: str) -> None:
    key = search_key(name)
    assert any(stored.startswith(key) for stored in search_keys(name))
    assert max(map(len, search_keys(name))) < 2600  # what a row of an index takes on PostgreSQL


def test_a_search_reads_a_range_of_the_index(submit: Submit, user: User) -> None:
    submit(name="brisk")
    with CaptureQueriesContext(connection) as queries:
        condition(parse("name:brisk"), by=user)
    assert len(queries) == 1
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(
                "EXPLAIN QUERY PLAN SELECT run_id FROM runs_runnamekey WHERE key >= %s AND key < %s"
                " LIMIT 9",
                [b"a", b"a\xff"],
            )
            assert "USING COVERING INDEX ix_run_name_key (key>? AND key<?)" in cursor.fetchone()[-1]


def test_the_admin_finds_it(submit: Submit, admin_client: Client) -> None:
    run = submit(name="brisk-otter-4127")
    submit(name="plain")
    page = admin_client.get("/admin/runs/run/?q=otter").content.decode()
    assert str(run.pk) in page
    assert page.count('class="field-called"') == 1


def test_keys_go_with_the_run(submit: Submit) -> None:
    run = submit(name="a b")
    assert run.name_keys.count() == 2
    run.delete()
    assert RunNameKey.objects.count() == 0


def test_extend_names_what_it_adds(submit: Submit, user: User) -> None:
    from runs.tests.services.test_extend import end  # noqa: PLC0415 - a completed training with a checkpoint

    run = end(submit(name="mine"), 5, 10)
    assert extend_run(run=run, by=user, num_epochs=2).name == "mine +2 epochs"
    annotate_run(run=run, by=user, name="ours")
    assert extend_run(run=run, by=user, max_steps=1).name == "ours +1 step"
