"""What a run learns from, with the parts that count in the loss; and lengths in tokens as dry runs
counted them."""

import json
import re
import uuid
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client

from datasets.models import Dataset
from datasets.services.exports import write_jsonl
from runs.models import Run
from runs.queries import samples as reading
from runs.queries.samples import read_samples, read_seen
from runs.services.reservations import run_folder
from runs.tests.conftest import Submit
from runs.tests.leftovers import make_run
from runs.views import samples as view

HOSTILE = "<script>alert(1)</script>\0"
LINE = {
    "id": "one",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "2+2=4\n4"},
    ],
    "final_answer": "4",
    "split": "train",
}


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def messages(page: str) -> list[tuple[str, str, str]]:
    """(kind, role, text) of every message shown."""
    head = r'data-testid="(learnt|given)"><p\s+class="sample-message-head">'
    head += r"<strong><bdi>(.*?)</bdi></strong>"
    pattern = head + r'.*?sample-message-text"><bdi>(.*?)</bdi></div>'
    return re.findall(pattern, page, re.DOTALL)


def test_only_the_answer_of_a_training_example_is_learnt(local_client: Client, user: User) -> None:
    run = make_run(user, files={"dataset.jsonl": lines(LINE, LINE | {"split": "held_out"})})
    page = local_client.get(f"/runs/{run.pk}/samples").content.decode()
    given = [("given", "system", "Be brief."), ("given", "user", "What is 2+2?")]
    assert messages(page) == [
        *given,
        ("learnt", "assistant", "2+2=4\n4"),
        *given,
        ("given", "assistant", "2+2=4\n4"),
    ]
    assert "held out: measured, never learnt" in page
    assert (
        "Exact match compares the last line of the model's answer with <code><bdi>4</bdi></code>"
        in page
    )


def test_every_answer_of_a_conversation_is_learnt_but_those_with_weight_0(
    local_client: Client, user: User
) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    conversation = LINE | {
        "kind": "conversation",
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "", "reasoning": "I add.", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "two", "weight": 0},
            {"role": "assistant", "content": "2"},
        ],
    }
    run = make_run(user, files={"dataset.jsonl": lines(conversation)})
    page = local_client.get(f"/runs/{run.pk}/samples").content.decode()
    found = messages(page)
    assert [(kind, role) for kind, role, _ in found] == [
        ("given", "user"),
        ("learnt", "assistant"),
        ("given", "tool"),
        ("given", "assistant"),
        ("learnt", "assistant"),
    ]
    assert found[1][2].startswith("I add.\n\n[{") and "add" in found[1][2]


def test_it_is_the_export_of_the_dataset(
    local_client: Client, submit: Submit, dataset: Dataset
) -> None:
    run = submit()
    assert write_jsonl(dataset, make_folder(run) / "dataset.jsonl") == 3
    for address, count in ((f"/runs/{run.pk}", 4), (f"/runs/{run.pk}/samples", 6)):
        found = messages(local_client.get(address).content.decode())
        assert found[:2] == [("given", "user", "0+1=?"), ("learnt", "assistant", "0+1\n1")]
        assert len(found) == count


def make_folder(run: Run) -> Path:
    folder = run_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_pages_lead_through_all_of_them(local_client: Client, user: User) -> None:
    rows = [LINE | {"id": f"example-{number}"} for number in range(25)]
    run = make_run(user, files={"dataset.jsonl": lines(*rows)})
    found, address = [], f"/runs/{run.pk}/samples"
    for _ in range(5):
        page = local_client.get(address).content.decode()
        found += re.findall(r"Example <span class=\"mono\"><bdi>(.*?)</bdi></span>", page)
        further = re.search(r'href="(\?from=\d+)" data-testid="further"', page)
        if not further:
            break
        address = f"/runs/{run.pk}/samples{further[1]}"
    assert found == [row["id"] for row in rows]


def test_what_cannot_be_read_is_counted_and_what_is_hostile_is_text(
    local_client: Client, user: User
) -> None:
    hostile = {
        "id": HOSTILE,
        "messages": [{"role": HOSTILE, "content": HOSTILE}],
        "final_answer": HOSTILE,
    }
    content = (
        b"no json\n" + lines([1], {"messages": 5}, {"messages": [7]}, hostile) + b"\n\xff\xfe\n"
    )
    run = make_run(user, files={"dataset.jsonl": content})
    page = local_client.get(f"/runs/{run.pk}/samples").content.decode()
    assert "<script>" not in page.split("</head>")[1].replace('<script src="', "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "5 lines here are no examples." in page


def test_long_texts_are_cut_and_say_so(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TEXT_MAX_CHARACTERS", 5)
    run = make_run(user, files={"dataset.jsonl": lines(LINE)})
    (sample,) = read_samples(run_folder(run), offset=0, limit=5).samples
    assert [(message.text, message.cut) for message in sample.messages][1] == ("What ", 7)


def test_a_run_without_data_of_its_own(local_client: Client, user: User) -> None:
    run = make_run(user)
    assert (
        "This run's folder has no data"
        in local_client.get(f"/runs/{run.pk}/samples").content.decode()
    )
    assert "to-samples" not in local_client.get(f"/runs/{run.pk}").content.decode()
    assert local_client.get(f"/runs/{uuid.uuid4()}/samples").status_code == 404


@pytest.mark.parametrize(
    ("query", "status"), [("99999", 404), ("-1", 200), ("x", 200), ("9" * 30, 200)]
)
def test_places_that_are_none(local_client: Client, user: User, query: str, status: int) -> None:
    run = make_run(user, files={"dataset.jsonl": lines(LINE)})
    assert local_client.get(f"/runs/{run.pk}/samples", {"from": query}).status_code == status


def test_a_link_in_its_place_is_not_followed(
    local_client: Client, user: User, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(lines(LINE))
    run = make_run(user, files={"stdout.log": b""})
    (make_folder(run) / "dataset.jsonl").symlink_to(tmp_path / "secret")
    assert (
        "This run's folder has no data"
        in local_client.get(f"/runs/{run.pk}/samples").content.decode()
    )


def test_the_first_examples_token_by_token_as_the_training_wrote_them(
    local_client: Client, user: User
) -> None:
    example = {"tokens": ["<s>", "2+2", "=", HOSTILE, "4"], "learnt_from": 3, "length": 9}
    content = json.dumps({"examples": [example]}).encode()
    run = make_run(user, files={"dataset.jsonl": lines(LINE), "seen.json": content})
    page = local_client.get(f"/runs/{run.pk}/samples").content.decode()
    assert re.findall(r'given-token"><bdi>(.*?)</bdi></span>', page) == ["&lt;s&gt;", "2+2", "="]
    assert re.findall(r'learnt-token"><bdi>(.*?)</bdi></mark>', page) == [
        "&lt;script&gt;alert(1)&lt;/script&gt;\ufffd",
        "4",
    ]
    assert "9 tokens" in page and "4 more tokens" in page
    assert (
        "given-token"
        not in local_client.get(f"/runs/{run.pk}/samples", {"from": "5"}).content.decode()
    )


def test_spans_of_learnt_tokens_are_marked(user: User) -> None:
    example = {
        "tokens": ["q", "a", "<end>", "\n", "q", "b"],
        "learnt": [[1, 3], [5, 90]],
        "learnt_from": 1,
        "length": 9,
    }
    run = make_run(user, files={"seen.json": json.dumps({"examples": [example]}).encode()})
    (seen,) = read_seen(run_folder(run))
    assert seen.tokens == [
        ("q", False),
        ("a", True),
        ("<end>", True),
        ("\n", False),
        ("q", False),
        ("b", True),
    ]
    assert (seen.length, seen.more) == (9, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"examples": 3}',
        b'{"examples": [1]}',
        b'{"examples": [{"tokens": 1}]}',
        b"\xff",
    ],
)
def test_nonsense_in_their_place_shows_none(
    local_client: Client, user: User, content: bytes
) -> None:
    run = make_run(user, files={"dataset.jsonl": lines(LINE), "seen.json": content})
    page = local_client.get(f"/runs/{run.pk}/samples").content.decode()
    assert 'data-testid="seen"' not in page
    assert messages(page)


# --- lengths in tokens ----------------------------------------------------------------------------


def measured(submit: Submit, model_id: str, rows: object, **fields: object) -> Run:
    run = submit(model_id=model_id, dry_run=True, preflight="full", **fields)
    run.summary = {"preflight": {"length_histogram": rows}}
    run.save(update_fields=["summary"])
    return run


def test_lengths_in_tokens_are_those_of_the_latest_dry_runs(
    local_client: Client, submit: Submit
) -> None:
    measured(submit, "preset:tiny-llama", [[0, 15, 9]])
    run = measured(submit, "preset:tiny-llama", [[0, 15, 1], [16, 31, 4]], max_seq_length=512)
    measured(submit, "google/gemma-2b-it", [[0, 15, 2]])
    submit()  # a training measures none
    for headers in ({}, {"hx-request": "true"}):
        page = local_client.get("/datasets/sums-v1/tokens", headers=headers).content.decode()
        assert re.findall(r"<h3><bdi>(.*?)</bdi></h3>", page) == [
            "google/gemma-2b-it",
            "preset:tiny-llama",
        ]
        assert re.findall(r'<rect width="(.*?)"', page) == ["100.00", "25.00", "100.00"]
        assert f'href="/runs/{run.pk}"' in page and "limit was 512 tokens" in page
    page = local_client.get("/datasets/sums-v1").content.decode()
    assert 'hx-get="/datasets/sums-v1/tokens"' in page
    assert 'href="/datasets/sums-v1/tokens"' in page  # without JavaScript


@pytest.mark.parametrize("rows", [None, 5, [], [[1, 2]], [[0, 15, 0]]])
def test_a_report_without_lengths_shows_none(
    local_client: Client, submit: Submit, rows: object
) -> None:
    measured(submit, "preset:tiny-llama", rows)
    assert (
        "No dry run of this dataset has counted tokens"
        in local_client.get("/datasets/sums-v1/tokens").content.decode()
    )


def test_no_more_runs_are_looked_at_than_said(
    local_client: Client, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "RUNS_LOOKED_AT", 1)
    measured(submit, "preset:tiny-llama", [[0, 15, 9]])
    submit()
    assert (
        "No dry run of this dataset has counted tokens"
        in local_client.get("/datasets/sums-v1/tokens").content.decode()
    )


def test_lengths_of_a_dataset_that_is_not_there(local_client: Client, db: None) -> None:
    assert local_client.get("/datasets/nothing-v1/tokens").status_code == 404
