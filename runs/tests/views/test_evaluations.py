"""The pages of evaluations."""

import json

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client

from datasets.models import Trace
from runs.models import Judgement, Run
from runs.runfolder import names
from runs.services.erasing import affected_by, erase
from runs.services.reservations import run_folder
from runs.tests.conftest import Evaluate
from tunixrt.judges import read_judges

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(remote_client: Client, user) -> Client:
    remote_client.force_login(user)
    return remote_client


@pytest.fixture
def form(make_dataset, a_training_command) -> dict[str, object]:
    """The form's fields as the page shows them at first, with a dataset and a model."""
    make_dataset("quiz")
    return {
        "dataset_key": "quiz-v1",
        "model_id": "preset:tiny-llama",
        "scorers": ["exact_match", "numeric"],
        "method": "generate",
        "part": "auto",
        "samples": "1",
        "temperature": "0.0",
        "top_p": "1.0",
        "seed": "0",
        "max_tokens": "256",
        "prompt_style": "conversation",
        "dtype": "auto",
        "reuse": "on",
    }


class TestForm:
    def test_it_queues_an_evaluation(self, client: Client, form):
        answer = client.post("/evaluations/new", form)

        run = Run.objects.get()
        assert (answer.status_code, answer["Location"]) == (302, f"/evaluations/{run.pk}")
        assert (run.kind, run.status, run.dry_run) == ("evaluate", "pending", False)
        assert [one["name"] for one in run.config["scorers"]] == ["exact_match", "numeric"]

    def test_a_check_starts_nothing_and_says_how_long_it_takes(
        self, client: Client, form, scripted
    ):
        report = {"sentences": ["40 questions.", "At most 90 s, if every one reaches max_tokens."]}
        scripted(["put", names.PLAN, json.dumps(report)])
        page = client.post("/evaluations/new", form | {"action": "check"})

        assert page.status_code == 200
        assert "At most 90 s" in page.content.decode()
        run = Run.objects.get()
        assert (run.kind, run.dry_run, run.status) == ("evaluate", True, "completed")
        assert not hasattr(run, "evaluation")

    def test_scorers_with_parameters_are_given_as_json(self, client: Client, form):
        scorers = '[{"name": "regex", "parameters": {"pattern": "yes"}}]'
        client.post("/evaluations/new", form | {"scorers_json": scorers})

        assert Run.objects.get().config["scorers"][0]["parameters"]["pattern"] == "yes"

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"model_id": "run:x"}, "The model of a run is run:&lt;run id&gt;"),
            ({"dataset_key": "gone-v1"}, "Not found: gone-v1"),
            ({"scorers": []}, "Choose at least one scorer."),
            ({"scorers_json": "{"}, "This is not JSON"),
            ({"scorers_json": '[{"name": "x"}]'}, "is not one of exact_match"),
            ({"samples": "5"}, "must be 1 with temperature 0"),
            ({"samples": "0"}, "must be at least 1"),
            ({"max_tokens": "9000"}, "8,192"),
            ({"baseline": "x"}, "must be the id of an evaluation"),
            ({"stop": "a\0b"}, "Null characters are not allowed"),
        ],
    )
    def test_what_is_wrong_stands_beside_the_field(
        self, client: Client, form, fields: dict[str, object], said: str
    ):
        answer = client.post("/evaluations/new", form | fields)

        assert answer.status_code == 400
        assert said in answer.content.decode()
        assert not Run.objects.exists()

    def test_run_again_shows_the_settings_and_compares(self, client: Client, evaluate: Evaluate):
        run = evaluate(max_tokens=8, stop=["END"])

        page = client.get(f"/evaluations/new?again={run.pk}")
        shown = page.context["form"]
        assert shown["max_tokens"].value() == 8 and shown["stop"].value() == "END"
        assert shown["baseline"].value() == str(run.pk) and shown["reuse"].value() is False

    @pytest.mark.parametrize("again", ["x", "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11"])
    def test_what_is_not_there_to_be_run_again_shows_the_empty_form(
        self, client: Client, again: str
    ):
        assert client.get(f"/evaluations/new?again={again}").status_code == 200


class TestEvaluation:
    def test_it_shows_scores_with_all_their_counts(self, client: Client, evaluate: Evaluate):
        run = evaluate({"exact_match": [1, 0, None]})

        page = client.get(f"/evaluations/{run.pk}").content.decode()
        assert "51.9 %" in page  # 14 of 27
        for count in (">27<", ">13<", ">40<"):
            assert count in page
        assert "preset:tiny-llama" in page

    def test_outputs_are_text_and_no_markup(self, client: Client, evaluate: Evaluate):
        run = evaluate(options={"text": "<script>alert(1)</script>\x1b[31m"})

        page = client.get(f"/evaluations/{run.pk}").content.decode()
        assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page

    def test_outputs_that_were_edited_are_pointed_out(self, client: Client, evaluate: Evaluate):
        run = evaluate()
        assert (
            "are not those that were scored"
            not in client.get(f"/evaluations/{run.pk}").content.decode()
        )
        with open(run_folder(run) / names.ITEMS, "a") as file:
            file.write("{}\n")

        page = client.get(f"/evaluations/{run.pk}").content.decode()
        assert "are not those that were scored" in page

    def test_run_again_says_whether_the_outputs_are_the_same(
        self, client: Client, evaluate: Evaluate
    ):
        first = evaluate()
        same, other = (
            evaluate(baseline=str(first.pk), options=options) for options in ({}, {"text": "no"})
        )

        assert "word for word" in client.get(f"/evaluations/{same.pk}").content.decode()
        page = client.get(f"/evaluations/{other.pk}").content.decode()
        assert "outputs differ from those of the baseline" in page

    def test_erased_examples_are_gone_and_the_rest_is_what_was_scored(
        self, client: Client, evaluate: Evaluate, staff
    ):
        run = evaluate()
        [trace] = Trace.objects.filter(prompt="quiz 7?")
        affected = affected_by(trace_ids=[trace.pk], by=staff)
        erasure = erase(affected=affected, confirmed=affected.count, by=staff)

        assert erasure.completed_at is not None
        assert str(trace.pk) not in (run_folder(run) / names.ITEMS).read_text()
        page = client.get(f"/evaluations/{run.pk}").content.decode()
        assert "are not those that were scored" not in page

    def test_all_questions_are_reached_by_the_pages(self, client: Client, evaluate: Evaluate):
        run = evaluate()
        address, seen = f"/evaluations/{run.pk}", set()
        while address:
            page = client.get(address)
            seen |= {item["hash"] for item in page.context["items"]}
            following = page.context["next_offset"]
            address = f"/evaluations/{run.pk}?offset={following}" if following else ""
        assert len(seen) == 40

    @pytest.mark.parametrize("offset", ["-1", "x", "9" * 30, "99999999"])
    def test_an_offset_that_is_none_does_no_harm(
        self, client: Client, evaluate: Evaluate, offset: str
    ):
        assert client.get(f"/evaluations/{evaluate().pk}?offset={offset}").status_code == 200

    def test_a_training_has_no_such_page(self, client: Client, submit):
        assert client.get(f"/evaluations/{submit().pk}").status_code == 404

    def test_the_page_of_the_run_leads_to_it(self, client: Client, evaluate: Evaluate):
        run = evaluate()
        page = client.get(f"/runs/{run.pk}").content.decode()
        assert f'href="/evaluations/{run.pk}"' in page


class TestList:
    def test_it_shows_scores(self, client: Client, evaluate: Evaluate):
        run = evaluate({"exact_match": [1, 0]})

        page = client.get("/evaluations").content.decode()
        assert str(run.name) in page and "50 %" in page

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("dataset=quiz-v1", True),
            ("dataset=other", False),
            ("model=preset:tiny-llama", True),
            ("model=x", False),
            ("status=completed", True),
            ("status=failed", False),
            ("run=0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11", False),
            ("run=x", False),
            ("dataset=%00", True),
        ],
    )
    def test_filters(self, client: Client, evaluate: Evaluate, query: str, found: bool):
        evaluate()
        assert bool(client.get(f"/evaluations?{query}").context["rows"]) is found

    def test_a_cursor_that_is_none_is_refused(self, client: Client):
        assert client.get("/evaluations?cursor=x").status_code == 422

    def test_it_costs_the_same_queries_however_many_there_are(
        self, client: Client, evaluate: Evaluate, django_assert_max_num_queries
    ):
        for _ in range(3):
            evaluate()
        with django_assert_max_num_queries(6):
            assert len(client.get("/evaluations").context["rows"]) == 3


class TestJudges:
    @pytest.fixture
    def run(self, evaluate: Evaluate, settings: LazySettings) -> Run:
        given = {"url": "http://127.0.0.1:1/v1/chat/completions", "model": "m", "key": "sk-secret"}
        settings.TUNIX_JUDGES = read_judges({"big": given}, {})
        return evaluate()

    def test_a_judge_is_asked_and_its_judgement_shown(self, client: Client, run: Run):
        page = client.get(f"/evaluations/{run.pk}").content.decode()
        assert 'data-testid="judge-form"' in page and "big (m, at most" in page

        answer = client.post(f"/evaluations/{run.pk}/judge", {"judge": "big"}, follow=True)

        judgement = Judgement.objects.get()
        page = answer.content.decode()
        assert "The judge is being asked." in page and "sk-secret" not in page + str(judgement)
        assert 'data-testid="judgement"' in page and 'hx-select="#judgements"' in page
        page = client.post(f"/judgements/{judgement.pk}/cancel", follow=True).content.decode()
        assert "cancelled" in page and "hx-select" not in page
        judgement.refresh_from_db()
        assert judgement.state == "cancelled"

    def test_pairs_are_chosen_among_the_evaluations_of_the_same_questions(
        self, client: Client, run: Run, evaluate: Evaluate
    ):
        other = evaluate()
        page = client.get(f"/evaluations/{run.pk}").content.decode()
        assert f'<option value="{other.pk}">' in page

        client.post(f"/evaluations/{run.pk}/judge", {"judge": "big", "against": str(other.pk)})

        judgement = Judgement.objects.get()
        assert (judgement.evaluation_id, judgement.against_id) == (run.pk, other.pk)
        assert "against this" in client.get(f"/evaluations/{other.pk}").content.decode()

    def test_what_is_wrong_is_said(self, client: Client, run: Run):
        answer = client.post(f"/evaluations/{run.pk}/judge", {"judge": "small"}, follow=True)
        assert "must be one of big" in answer.content.decode()

    def test_there_is_no_form_for_those_who_may_not(self, remote_client: Client, run: Run):
        other = User.objects.create_user("other")
        remote_client.force_login(other)

        assert "judge-form" not in remote_client.get(f"/evaluations/{run.pk}").content.decode()
        refused = remote_client.post(f"/evaluations/{run.pk}/judge", {"judge": "big"})
        assert refused.status_code == 403 and not Judgement.objects.exists()
