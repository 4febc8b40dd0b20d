"""The pages of votes."""

import re
from html import unescape

import pytest
from django.contrib.auth.models import User
from django.test import Client

from datasets.models import Dataset
from runs.models import Run, Vote, VoteRound
from runs.runfolder import names
from runs.services.reservations import run_folder
from runs.services.votes import questions_of
from runs.tests.conftest import Evaluate
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
MODELS = ("preset:tiny-llama", "HuggingFaceTB/SmolLM2-135M")


@pytest.fixture
def client(remote_client: Client, user: User) -> Client:
    remote_client.force_login(user)
    return remote_client


@pytest.fixture
def runs(evaluated: Evaluate) -> list[Run]:
    return [
        evaluated(options={"text": text}, model_id=model, name=f"named-{text}")
        for text, model in zip(("<b>one</b>", "two"), MODELS, strict=True)
    ]


@pytest.fixture
def round(client: Client, runs: list[Run]) -> VoteRound:
    """Started by the form of an evaluation's page."""
    page = client.get(f"/evaluations/{runs[0].pk}").content.decode()
    [second] = re.findall(r'<option value="([-0-9a-f]{36})">', page)
    answer = client.post("/votes", {"first": str(runs[0].pk), "second": second})
    found = VoteRound.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/votes/{found.pk}")
    return found


def vote(client: Client, round: VoteRound, choice: str) -> str:
    """Vote on the question that the page shows; the page."""
    page = client.get(f"/votes/{round.pk}").content.decode()
    [question] = re.findall(r'name="question" value="(\w+)"', page)
    answer = client.post(f"/votes/{round.pk}", {"question": question, "choice": choice})
    assert (answer.status_code, answer["Location"]) == (302, f"/votes/{round.pk}")
    return page


def test_the_voting_page_names_no_model(client: Client, round: VoteRound, runs: list[Run]):
    for page in (
        vote(client, round, "1"),
        vote(client, round, "s"),
        client.get(f"/votes/{round.pk}?question={Vote.objects.all()[0].question}").content.decode(),
    ):
        for run in runs:
            for telling in (run.model_id, run.name, str(run.pk), str(run.pk)[:8]):
                assert telling not in page
        assert "&lt;b&gt;one&lt;/b&gt;" in page and "<b>one" not in page


def test_questions_come_one_after_the_other_until_the_end(client: Client, round: VoteRound):
    for _ in range(round.size):
        vote(client, round, "0")
    page = client.get(f"/votes/{round.pk}").content.decode()

    assert 'data-testid="vote-end"' in page
    assert Vote.objects.filter(choice="tie").count() == round.size == 40


def test_a_vote_can_be_changed(client: Client, round: VoteRound):
    vote(client, round, "0")
    page = client.get(f"/votes/{round.pk}").content.decode()
    [address] = re.findall(r'href="([^"]+)" data-testid="previous"', page)
    page = client.get(unescape(address)).content.decode()

    assert re.search(r'value="0" aria-current="true"', page)
    question = Vote.objects.get().question
    client.post(f"/votes/{round.pk}", {"question": question, "choice": "s"})
    assert Vote.objects.get().choice == "skip"


def test_results_with_their_dataset(client: Client, round: VoteRound):
    vote(client, round, "1")
    page = client.get(f"/votes/{round.pk}/results").content.decode()
    for model in MODELS:
        assert model in page
    sent = {"name": "liked", "version": "v1", "per": "vote"}
    answer = client.post(f"/votes/{round.pk}/dataset", sent, follow=True)

    assert answer.redirect_chain == [("/datasets/liked-v1", 302)]
    assert "of 1 pairs" in answer.content.decode()
    assert Dataset.objects.get(name="liked").format == "tunix_preference"
    again = client.post(f"/votes/{round.pk}/dataset", sent, follow=True)
    assert "exists already" in again.content.decode()
    assert MODELS[0] in client.get("/votes").content.decode()


def test_after_an_evaluation_is_gone_the_page_says_so(
    client: Client, round: VoteRound, runs: list[Run]
):
    [question, *_] = questions_of(round)
    (run_folder(runs[0]) / names.ITEMS).unlink()
    refused = client.post(f"/votes/{round.pk}", {"question": question, "choice": "1"})
    assert refused.status_code == 409
    page = client.get(f"/votes/{round.pk}").content.decode()
    assert "The outputs of 40 were erased or changed" in page
    runs[0].delete()
    assert client.get(f"/votes/{round.pk}").status_code == 409
    assert "deleted" in client.get(f"/votes/{round.pk}/results").content.decode()


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("", {}, 400),
        ("", {"question": "f" * 64, "choice": "1"}, 404),
        ("?question=x", None, 404),
        ("/dataset", {}, 302),
        ("/dataset", {"name": "a", "version": "\x00"}, 302),
    ],
)
def test_bad_input_changes_nothing(
    client: Client, round: VoteRound, path: str, sent: dict[str, str] | None, status: int
):
    address = f"/votes/{round.pk}{path}"
    answer = client.get(address) if sent is None else client.post(address, sent)
    assert answer.status_code == status
    assert not Vote.objects.exists() and not Dataset.objects.exclude(name="quiz").exists()


def test_an_unknown_choice_of_a_question_is_400(client: Client, round: VoteRound):
    [question, *_] = questions_of(round)
    for choice in ("", "3", "first"):
        sent = {"question": question, "choice": choice}
        assert client.post(f"/votes/{round.pk}", sent).status_code == 400
    assert not Vote.objects.exists()


def test_a_round_that_cannot_be_is_a_message(client: Client, runs: list[Run]):
    for sent in (
        {},
        {"first": "x", "second": "\x00"},
        dict.fromkeys(("first", "second"), runs[0].pk),
    ):
        page = client.post("/votes", sent, follow=True).content.decode()
        assert "notice error" in page
    assert not VoteRound.objects.exists()


def test_viewers_read_results_and_do_not_vote(client: Client, round: VoteRound, user: User):
    set_role(user=user, role=Role.VIEWER)
    assert client.get(f"/votes/{round.pk}").status_code == 403
    assert client.post(f"/votes/{round.pk}").status_code == 403
    assert client.post("/votes").status_code == 403
    page = (
        client.get("/votes").content.decode()
        + client.get(f"/votes/{round.pk}/results").content.decode()
    )
    assert 'data-testid="go-vote"' not in page
    assert 'data-testid="make-dataset"' not in page
