"""Evaluations beside each other: the page, the CSV, the API, and the ways that lead there."""

import csv
import json
import re
import uuid
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from runs.models import Run
from runs.runfolder import names
from runs.services.deletion import trash_run
from runs.services.reservations import run_folder
from runs.tests.conftest import Evaluate

pytestmark = pytest.mark.django_db

API = "/api/tunix/evaluations/compare"
PAGE = "/evaluations/compare"


def address(*runs: Run) -> str:
    return "ids=" + ",".join(str(run.pk) for run in runs)


@pytest.fixture
def pair(evaluate: Evaluate) -> tuple[Run, Run]:
    """A baseline that is right every other time, and a candidate that is wrong at the others and at
    one in four of the same; their outputs differ."""
    one = evaluate({"exact_match": [1, 0, 1, 0]}, options={"text": "It is <b>41</b> now"})
    two = evaluate({"exact_match": [1, 1, 0, 0]}, options={"text": "It is <b>42</b> now"})
    return one, two


def test_only_for_somebody_logged_in(remote_client: Client):
    for path in (PAGE, f"{PAGE}.csv"):
        assert remote_client.get(path).status_code == 302
    assert APIClient(REMOTE_ADDR="192.0.2.1").get(API).status_code == 401


class TestPage:
    def test_shows_differences_and_outputs(self, local_client: Client, pair: tuple[Run, Run]):
        page = local_client.get(f"{PAGE}?{address(*pair)}")
        text = page.content.decode()

        (measured,) = page.context["measured"]
        assert (measured.cells[1].against.better_on, measured.cells[1].against.worse_on) == (10, 10)
        assert "no difference shown" in text
        assert 'data-testid="same-settings"' in text
        assert text.count('data-testid="question"') == 10
        assert re.search(r"<del\s*> &lt;b&gt;41&lt;/b&gt;</del>", text)
        assert re.search(r"<ins\s*> &lt;b&gt;42&lt;/b&gt;</ins>", text)
        assert f'href="/evaluations/{pair[0].pk}"' in text

        # the form of the list leads here
        text = local_client.get("/evaluations").content.decode()
        assert f'name="ids" value="{pair[0].pk}"' in text
        assert f'formaction="{PAGE}"' in text
        page = local_client.get(PAGE, {"ids": [run.pk for run in pair]})
        assert [entry.run for entry in page.context["comparison"].entries] == [*pair]

    def test_questions_are_filtered_and_paged(self, local_client: Client, pair: tuple[Run, Run]):
        ask = f"{PAGE}?{address(*pair)}&page="
        whole = [local_client.get(f"{ask}{page}").context["rows"] for page in (1, 2, 3, 4, 99)]
        hashes = [row.hash for rows in whole[:4] for row in rows]
        assert len(set(hashes)) == 40
        assert whole[4] == whole[3]
        assert {row.relation for rows in whole[:2] for row in rows} == {
            "A right, B wrong",
            "B right, A wrong",
        }

        page = local_client.get(f"{PAGE}?{address(*pair)}&only=both_wrong")
        assert [row.relation for row in page.context["rows"]] == ["both wrong"] * 10
        page = local_client.get(f"{PAGE}?{address(*pair)}&first=B&second=A&only=first")
        assert {row.relation for row in page.context["rows"]} == {"B right, A wrong"}

        # what cannot be chosen is said, and something else is shown
        query = "&scorer=x&first=Z&second=%00&only=%27&column=none&page=-1"
        page = local_client.get(f"{PAGE}?{address(*pair)}{query}")
        assert page.status_code == 200
        assert len(page.context["notices"]) == 5
        assert len(page.context["rows"]) == 10

    def test_an_evaluation_links_to_its_baseline_and_to_others(
        self, local_client: Client, evaluate: Evaluate
    ):
        base = evaluate()
        run = evaluate(baseline=str(base.pk))
        link = f'href="{PAGE}?ids={base.pk},{run.pk}"'
        assert local_client.get(f"/evaluations/{run.pk}").content.decode().count(link) == 2
        trash_run(run=base, by=base.owner)
        text = local_client.get(f"/evaluations/{run.pk}").content.decode()
        assert link not in text and 'data-testid="others"' not in text

    def test_scores_are_shown_without_the_outputs(
        self, local_client: Client, pair: tuple[Run, Run]
    ):
        path = run_folder(pair[1]) / names.ITEMS

        def look() -> str:
            page = local_client.get(f"{PAGE}?{address(*pair)}")
            (measured,) = page.context["measured"]
            assert measured.cells[1].against.n == 40
            text = page.content.decode()
            assert 'data-testid="away"' in text
            assert "&lt;b&gt;41" in text and "&lt;b&gt;42" not in text
            return text

        path.write_text(path.read_text().replace("<b>42", "<b>43"))
        assert "were changed" in look()
        path.unlink()
        assert "are not there" in look()
        path.mkdir()
        look()

    def test_a_baseline_that_is_gone_is_said(self, local_client: Client, evaluate: Evaluate):
        runs = [evaluate() for _ in range(3)]
        trash_run(run=runs[0], by=runs[0].owner)
        page = local_client.get(f"{PAGE}?{address(*runs)}")
        assert "The baseline is one of them" in page.content.decode()
        missing = local_client.get(f"{API}?{address(*runs)}")
        assert missing.status_code == 404 and str(runs[0].pk) in missing.content.decode()

    def test_costs_the_same_queries_for_any_number_of_questions(
        self, local_client: Client, evaluate: Evaluate
    ):
        local_client.get("/")
        counts = []
        for fields in ({"limit": 5}, {}):
            ask = f"{PAGE}?{address(evaluate(**fields), evaluate(**fields))}"
            with CaptureQueriesContext(
                connection,
            ) as queries:
                assert local_client.get(ask).status_code == 200
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 7


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "0 are chosen"),
        (f"ids={uuid.UUID(int=1)}", "1 is chosen"),
        ("ids=" + ",".join(str(uuid.UUID(int=number)) for number in range(11)), "11 are chosen"),
        (f"ids={uuid.UUID(int=1)},{uuid.UUID(int=2)}", "Fewer than two"),
        ("ids=1,2", ""),
        ("ids=%00", ""),
    ],
)
def test_what_cannot_be_compared_is_422(local_client: Client, user, query: str, said: str) -> None:
    for path in (PAGE, f"{PAGE}.csv", API):
        answer = local_client.get(f"{path}?{query}")
        assert answer.status_code == 422
        assert said in answer.content.decode()
    assert "does not name evaluations" in local_client.get(f"{PAGE}?ids=1").content.decode()


def test_csv_has_a_line_for_each_question(local_client: Client, pair: tuple[Run, Run]):
    Run.objects.filter(pk=pair[1].pk).update(name="=HYPERLINK(evil)")
    with open(run_folder(pair[0]) / names.ITEMS, encoding="utf-8") as file:
        ids = {item["hash"]: item["id"] for item in map(json.loads, file)}
    response = local_client.get(f"{PAGE}.csv?{address(*pair)}")
    heading, *lines = csv.reader(response.content.decode().splitlines())

    assert response["Content-Disposition"] == 'attachment; filename="evaluations.csv"'
    assert heading[:2] == ["hash", "id"]
    assert heading[2].endswith(": exact_match")
    assert heading[3].startswith("'=HYPERLINK")
    assert len(lines) == 40
    assert {line[0]: line[1] for line in lines} == ids
    assert [line[2:] for line in lines[:4]] == [
        ["1.0", "1.0"], ["0.0", "1.0"], ["1.0", "0.0"], ["0.0", "0.0"],
    ]  # fmt: skip


class TestApi:
    def test_answers_what_the_page_shows(self, api: APIClient, pair: tuple[Run, Run]):
        answer = api.get(f"{API}?{address(*pair)}&scorer=exact_match").json()

        assert [one["run_id"] for one in answer["evaluations"]] == [str(run.pk) for run in pair]
        (scorer,) = answer["scorers"]
        assert scorer["scores"][0]["against_baseline"] is None
        against = scorer["scores"][1]["against_baseline"]
        assert (against["n"], against["better_on"], against["worse_on"]) == (40, 10, 10)
        assert (against["p_value"], against["verdict"]) == (1.0, "undecided")
        assert answer["questions"]["size"] == 40
        assert (answer["headline"], answer["columns"], answer["slices"]) == (None, [], [])
        for query, said in (("scorer=x", "exact_match"), ("column=x", "none"), ("a=1", "known")):
            refused = api.get(f"{API}?{address(*pair)}&{query}")
            assert refused.status_code == 422 and said in refused.content.decode()

    def test_an_evaluation_that_has_not_ended_is_not_compared(
        self, api: APIClient, submit: Callable[..., Run]
    ):
        one, two = (submit(kind="evaluate") for _ in range(2))
        answer = api.get(f"{API}?{address(one, two)}").json()
        assert answer["scorers"] == []
        assert all("not ended" in one["problem"] for one in answer["evaluations"])
