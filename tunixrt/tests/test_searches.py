"""Searches that may read everything: one of each account, few in all, and stopped after a while."""

import threading

import pytest
from django.contrib.auth.models import User
from django.db import connection
from rest_framework.test import APIClient

from tunixrt import searches as module
from tunixrt.refusals import Busy, InvalidQuery, TooMany
from tunixrt.searches import Searches, time_limit

ENDLESS = (
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT count(*)"
    " FROM numbers"
)


@pytest.mark.django_db
def test_a_search_without_end_is_stopped_and_the_connection_goes_on():
    with pytest.raises(InvalidQuery) as caught, time_limit(0.1, "q"), connection.cursor() as cursor:
        cursor.execute(ENDLESS)

    assert "was stopped after 0.1 s" in caught.value.messages["q"][0]
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_one_account_has_one_at_a_time_and_others_go_on():
    searches = Searches(2, patience=0)
    with searches.one_of(1):
        with pytest.raises(TooMany, match="Another search of yours"), searches.one_of(1):
            pass
        with (
            searches.one_of(2),
            pytest.raises(Busy, match="Searches of others"),
            searches.one_of(3),
        ):
            pass
        with searches.one_of(3):
            pass
    with searches.one_of(1):
        pass


def test_one_that_ends_soon_is_waited_for():
    searches = Searches(1, patience=180)
    began, end = threading.Event(), threading.Event()

    def first() -> None:
        with searches.one_of(1):
            began.set()
            end.wait()

    thread = threading.Thread(target=first)
    thread.start()
    began.wait()
    threading.Timer(0.05, end.set).start()
    with searches.one_of(1):
        pass
    thread.join()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    [
        "/api/tunix/runs?q=note:x", "/api/tunix/runs?q=loss<1", "/api/tunix/runs?q=duration>9h",
        "/api/tunix/runs?q=step:7", "/api/traces?q=x", "/api/datasets?q=x", "/?q=note:x",
        "/datasets?q=x", "/traces?q=x",
    ],
)  # fmt: skip
def test_whatever_may_read_everything_is_counted(
    api: APIClient, user: User, path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "searches", Searches(2, patience=0))
    api.force_login(user)
    assert api.get(path).status_code == 200

    with module.searches.one_of(user.pk):
        answer = api.get(path)
        assert (answer.status_code, answer["Retry-After"]) == (429, "10")
        assert "Another search of yours" in answer.content.decode()
        assert api.get(path.split("?")[0]).status_code == 200
        assert api.get("/api/tunix/runs?q=gemma status:failed").status_code == 200


@pytest.mark.django_db
def test_one_that_takes_too_long_says_what_to_do(api: APIClient, monkeypatch: pytest.MonkeyPatch):
    def endless(*args: object, **kwargs: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(ENDLESS)

    monkeypatch.setattr("runs.queries.pages.read_page", endless)
    monkeypatch.setattr(module.settings, "TUNIXRT_SEARCH_SECONDS", 0.1)
    answer = api.get("/api/tunix/runs?q=note:x")

    assert answer.status_code == 422
    assert "was stopped after 0.1 s" in answer.json()["q"][0]
