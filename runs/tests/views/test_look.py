"""The pages and the API of examples in tokens."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from rest_framework.test import APIClient

from datasets.models import Dataset, Trace
from datasets.services.datasets import create_dataset
from datasets.services.erasing import erase_contents
from datasets.services.traces import create_traces
from runs.execution import lengths
from runs.tests.tokenizer_folder import make_tokenizer_folder
from runs.trainer.tests.templates import QWEN, SMOLLM2, TOOL
from runs.views.look import Segment, _segments

pytestmark = pytest.mark.django_db
PRESET = {"model_id": "preset:tiny-llama"}


@pytest.fixture(autouse=True)
def roots(settings: LazySettings, tmp_path: Path) -> Path:
    settings.TUNIXRT_VAR_DIR = tmp_path
    settings.TUNIX_MODEL_ROOTS = [tmp_path]
    return tmp_path


def store(**example: Any) -> Trace:
    (trace,) = create_traces(items=[example], by=None)
    return trace


def shown(page: str, side: str = "whole") -> list[tuple[str, str]]:
    """What is marked of a block: kind and text of each segment."""
    block = page.split(f'data-testid="block-{side}"')[1].split("</section>")[0]
    found = re.findall(r'data-testid="([\w-]+)"><bdi\s*>(.*?)</bdi>', block, re.DOTALL)
    return [(kind, text) for kind, text in found if kind.startswith(("control-", "text-"))]


def test_an_example_as_the_model_sees_it(local_client: Client) -> None:
    trace = store(prompt="Say <end> & go", final_answer="Done")
    page = local_client.get(f"/traces/{trace.pk}/look", PRESET).content.decode()
    assert shown(page) == [
        ("control-given", "&lt;begin&gt;"),
        ("text-given", "Say &lt;end&gt; &amp; go\n"),
        ("text-learnt", "Done"),
        ("control-learnt", "&lt;end&gt;"),
    ]
    assert re.findall(r'<td class="number" data-label="[^"]*">(\d+)</td>', page) == [
        "21",
        "5",
        "0",
        "5",
    ]


def test_every_token_on_demand(local_client: Client) -> None:
    trace = store(prompt="é", final_answer="ok")
    query = PRESET | {"tokens": "on"}
    page = local_client.get(f"/traces/{trace.pk}/look", query).content.decode()
    assert shown(page) == [
        ("control-given", "&lt;begin&gt;"), ("text-given", "é"), ("text-given", ""),
        ("text-given", "\n"), ("text-learnt", "o"), ("text-learnt", "k"),
        ("control-learnt", "&lt;end&gt;"),
    ]  # fmt: skip
    assert 'title="A further part of the character before, token 169"' in page


def test_the_examples_of_a_dataset_lead_from_one_to_the_next(local_client: Client) -> None:
    first, second, gone, last = (store(prompt=f"{n}?", final_answer="x") for n in range(4))
    create_dataset(
        name="sums",
        version="v1",
        trace_ids=[each.pk for each in (first, second, gone, first, last)],
        by=None,
    )
    erase_contents([gone.pk])

    def links(trace: Trace, **query: Any) -> dict[str, str]:
        page = local_client.get(f"/traces/{trace.pk}/look", {"dataset": "sums-v1"} | query)
        return {
            name: html.unescape(address)
            for address, name in re.findall(
                r'href="([^"]*)" data-testid="(before|after)"', page.content.decode()
            )
        }

    def look(trace: Trace, position: int, more: str = "") -> str:
        return f"/traces/{trace.pk}/look?dataset=sums-v1{more}&position={position}"

    assert links(first) == {"after": look(second, 1)}
    assert links(second) == {"before": look(first, 0), "after": look(first, 3)}
    assert links(first, position="3") == {"before": look(second, 1), "after": look(last, 4)}
    assert links(last, position="1") == {"before": look(first, 3)}  # not its place
    asked = {"model_id": "preset:tiny-llama", "row": "2", "start": "5000"}
    kept = "&model_id=preset%3Atiny-llama"
    assert links(last, **asked) == {"before": look(first, 3, kept)}
    assert links(store(prompt="elsewhere", final_answer="x")) == {}


def test_the_page_without_a_model_asks_for_one(local_client: Client, dataset: Dataset) -> None:
    trace = dataset.items.all()[0].trace
    page = local_client.get(f"/traces/{trace.pk}/look?dataset=sums-v1").content.decode()
    assert 'href="/datasets/sums-v1"' in page and "block-whole" not in page
    assert '<option value="preset:tiny-llama">' in page
    assert f'href="/traces/{trace.pk}/look?dataset=sums-v1&amp;position=0"' in (
        local_client.get("/datasets/sums-v1").content.decode()
    )
    assert f'href="/traces/{trace.pk}/look"' in (
        local_client.get(f"/traces/{trace.pk}").content.decode()
    )


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"model_id": ""}, 400, "This field is required"),
        ({"model_id": "google/gemma-2b-it"}, 422, "nothing is fetched"),
        ({"model_id": "/etc"}, 422, "TUNIX_MODEL_ROOTS"),
        ({**PRESET, "max_seq_length": "1"}, 400, "128"),
        ({**PRESET, "max_seq_length": "many"}, 400, "whole number"),
        ({**PRESET, "too_long": "never"}, 400, "Select a valid choice"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    local_client: Client, query: dict[str, str], status: int, words: str
) -> None:
    trace = store(prompt="q", final_answer="a")
    answer = local_client.get(f"/traces/{trace.pk}/look", query)
    assert answer.status_code == status
    assert words in answer.content.decode() and "block-whole" not in answer.content.decode()


@pytest.mark.parametrize("nonsense", ["x", "-1", "9" * 30, "", "٣", "999999"])
def test_places_that_make_no_sense(local_client: Client, nonsense: str) -> None:
    trace = store(prompt="q", final_answer="a")
    for name in ("row", "start"):
        answer = local_client.get(f"/traces/{trace.pk}/look", PRESET | {name: nonsense})
        assert answer.status_code == 200


def test_a_hostile_template_is_an_answer_in_words(local_client: Client, roots: Path) -> None:
    folder = make_tokenizer_folder(roots / "bad", "{% include 'x' %}<script>alert(1)</script>")
    trace = store(prompt="q", final_answer="a")
    answer = local_client.get(f"/traces/{trace.pk}/look", {"model_id": str(folder)})
    assert answer.status_code == 422
    assert "no loader for this environment" in answer.content.decode()
    assert "<script>alert" not in answer.content.decode()


def test_what_a_template_cannot_express(local_client: Client, roots: Path) -> None:
    folder = make_tokenizer_folder(roots / "smollm2", SMOLLM2)
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}]
    trace = store(messages=messages, tools=[TOOL])
    page = local_client.get(f"/traces/{trace.pk}/look", {"model_id": str(folder)})
    assert "does not show the name of tool 1" in page.content.decode()


def test_sides_of_a_pair(local_client: Client, roots: Path) -> None:
    folder = make_tokenizer_folder(roots / "qwen", QWEN)
    trace = store(prompt="2+2?", chosen="4", rejected="5")
    page = local_client.get(f"/traces/{trace.pk}/look", {"model_id": str(folder)}).content.decode()
    assert [text for _, text in shown(page, "prompt")][1] == "user\n2+2?"
    assert shown(page, "chosen")[:2] == [("text-learnt", "4"), ("control-learnt", "&lt;|end|&gt;")]
    assert shown(page, "rejected")[0] == ("text-learnt", "5")


def test_rows_of_their_own(local_client: Client, roots: Path) -> None:
    folder = make_tokenizer_folder(roots / "qwen", QWEN)
    messages = [
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": "a", "reasoning": "why"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "b", "reasoning": "because"},
    ]
    trace = store(messages=messages)
    for row, thought in (("0", "why"), ("1", "because")):
        query = {"model_id": str(folder), "row": row}
        page = local_client.get(f"/traces/{trace.pk}/look", query).content.decode()
        learnt = "".join(text for kind, text in shown(page) if kind.endswith("-learnt"))
        assert thought in learnt and "answers have rows of their own" in page


def test_long_examples_are_shown_piece_by_piece(
    local_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = store(prompt="q" * 3000, final_answer="a" * 3000)
    page = local_client.get(f"/traces/{trace.pk}/look", PRESET).content.decode()
    (further,) = re.findall(r'rel="next" href="([^"]*)"', page)
    address = f"/traces/{trace.pk}/look{further.replace('&amp;', '&')}"
    page = local_client.get(address).content.decode()
    assert "tokens 2001 to 4000" in page and "First tokens" in page


def test_neighbours_that_look_alike_are_joined_and_control_tokens_are_not() -> None:
    def token(text: str, **more: Any) -> dict[str, Any]:
        flags = {"id": 1, "skipped": "", "control": False, "learnt": False, "kept": True}
        return {**flags, "text": text, **more}

    tokens = [
        token("<s>", control=True), token("a"), token("b"), token("c", skipped=" "),
        token("d", learnt=True), token("<s>", control=True, learnt=True),
        token("e", learnt=True), token("f", learnt=True, kept=False),
    ]  # fmt: skip
    assert [(one.text, one.id) for one in _segments(tokens, apart=False)] == [
        ("<s>", 1), ("ab", None), (" ", None), ("c", None), ("d", None), ("<s>", 1), ("e", None),
        ("f", None),
    ]  # fmt: skip
    assert _segments(tokens, apart=False)[2] == Segment(" ", skipped=True)
    assert len(_segments(tokens, apart=True)) == 9


# --- lengths --------------------------------------------------------------------------------------


def test_lengths_of_a_dataset(local_client: Client, dataset: Dataset) -> None:
    page = local_client.get("/datasets/sums-v1/tokens", PRESET).content.decode()
    assert "All 3 examples were counted" in page and "<rect" in page
    # begin, 0+1=?, newline, 0+1, newline, 1, end
    assert "The longest has 13 tokens" in page
    answer = local_client.get("/datasets/sums-v1/tokens", {"model_id": "/etc"})
    assert answer.status_code == 422 and "TUNIX_MODEL_ROOTS" in answer.content.decode()


def test_a_sample_of_a_large_dataset_is_counted(
    local_client: Client, make_dataset: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "EXAMPLES_MAX", 20)
    monkeypatch.setattr(lengths, "BATCH", 7)
    dataset = make_dataset(size=50)
    sample = list(lengths.sample_lines(dataset))
    assert len(set(sample)) == 20 and sample == list(lengths.sample_lines(dataset))
    page = local_client.get("/datasets/sums-v1/tokens", PRESET).content.decode()
    assert re.search(r"20 of\s+50 examples were counted, drawn at random", page)
    monkeypatch.setattr(lengths, "BYTES_MAX", 3 * len(sample[0]))
    assert 1 <= len(list(lengths.sample_lines(dataset))) <= 3


def test_an_empty_dataset(local_client: Client) -> None:
    create_dataset(name="none", version="v1", trace_ids=[], by=None)
    page = local_client.get("/datasets/none-v1/tokens", PRESET).content.decode()
    assert "All 0 examples were counted" in page


# --- the API --------------------------------------------------------------------------------------


def test_the_api(api: APIClient, dataset: Dataset) -> None:
    trace = dataset.items.all()[0].trace
    answer = api.get(f"/api/traces/{trace.pk}/rendered", PRESET | {"start": 2, "count": 3})
    assert answer.status_code == 200
    (row,) = answer.json()["rows"]
    assert row == {
        "side": "", "tokens": 13, "learnt": 6, "kept": 13, "kept_learnt": 6, "sequences": 1,
    }  # fmt: skip
    (block,) = answer.json()["blocks"]
    assert (block["start"], block["more"]) == (2, 8)
    assert "".join(token["text"] for token in block["tokens"]) == "+1="
    counted = api.get("/api/datasets/sums-v1/lengths", PRESET).json()
    assert counted["histogram"] == [[0, 15, 3]] and counted["tokens"] == 39


@pytest.mark.parametrize(
    ("path", "query", "status", "field"),
    [
        ("/api/traces/{trace}/rendered", {}, 422, "model_id"),
        ("/api/traces/{trace}/rendered", {"model_id": "google/gemma-2b"}, 422, "model_id"),
        ("/api/traces/{trace}/rendered", PRESET | {"count": "0"}, 422, "count"),
        ("/api/traces/{trace}/rendered", PRESET | {"more": "0"}, 422, "more"),
        ("/api/traces/x/rendered", PRESET, 422, "trace_id"),
        ("/api/traces/00000000-0000-4000-8000-000000000000/rendered", PRESET, 404, None),
        ("/api/datasets/sums-v1/lengths", {}, 422, "model_id"),
        ("/api/datasets/none-v1/lengths", PRESET, 404, None),
    ],
)
def test_what_the_api_refuses(
    api: APIClient, dataset: Dataset, path: str, query: Any, status: int, field: str | None
) -> None:
    path = path.replace("{trace}", str(dataset.items.all()[0].trace_id))
    answer = api.get(path, query)
    assert answer.status_code == status
    assert answer.json()["detail"] and (field is None or field in answer.json())
