"""KTO data and trees of OASST: what several lines become together."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from datasets.examples.kinds import content_of
from datasets.files.reading import ImportRefused
from datasets.formats.grouping import Trees, Verdicts
from datasets.formats.table import recognise
from datasets.imports import importers
from datasets.imports.importers import BadLines
from datasets.models import Dataset
from datasets.tests.factory import import_upload, jsonl, nothing_is_stored

pytestmark = pytest.mark.django_db


def store(*lines: Any, content: bytes | None = None, **asked: Any) -> Dataset:
    content = jsonl(*lines) if content is None else content
    return import_upload(file=io.BytesIO(content), **({"name": "a", "version": "v1"} | asked))


def contents(dataset: Dataset) -> list[dict[str, Any]]:
    items = dataset.items.select_related("trace").order_by("position")
    return [content_of(item.trace) for item in items]


def texts(dataset: Dataset) -> list[Any]:
    """The texts of each conversation, or of the sides of each pair."""
    return [
        [message["content"] for message in found["messages"]]
        if "messages" in found
        else tuple(
            [message["content"] for message in found[side]]
            for side in ("prompt", "chosen", "rejected")
        )
        for found in contents(dataset)
    ]


def problems_of(*lines: Any, **asked: Any) -> list[tuple[int, str]]:
    with pytest.raises(BadLines) as error:
        store(*lines, **asked)
    assert nothing_is_stored()
    return [(problem.line, problem.reason) for problem in error.value.problems]


# --- KTO ------------------------------------------------------------------------------------------


def said(prompt: Any, completion: Any, label: Any, **rest: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "label": label} | rest


def pair(prompt: str, chosen: str, rejected: str) -> tuple[list[str], list[str], list[str]]:
    return [prompt], [chosen], [rejected]


class TestKto:
    def test_good_and_bad_answers_to_a_prompt_become_pairs(self):
        dataset = store(
            said("p", "good", True),
            said("q", "right", True),
            said("p", "bad", False),
            said("q", "wrong", False),
            said("q", "worse", False),
        )
        assert dataset.kind == "preference"
        assert texts(dataset) == [
            pair("p", "good", "bad"),
            pair("q", "right", "wrong"),
            pair("q", "right", "worse"),
        ]
        assert dataset.provenance["format"] == "kto"

    def test_an_answer_without_another_one_is_refused(self):
        lines = [said("p", "good", True), said("p", "bad", False)]
        problems = problems_of(*lines, said("q", "right", True), said("r", "wrong", False))
        assert [line for line, _ in problems] == [3, 4]
        assert problems[0][1].startswith("has no answer with the label false to the same prompt")
        assert "kind=trace" in problems[0][1]
        assert problems[1][1].startswith("has no answer with the label true")

    def test_it_can_be_left_out(self):
        dataset = store(
            *(said("p", "good", True), said("p", "bad", False), said("q", "right", True)),
            skip_bad=0.4,
        )
        assert texts(dataset) == [pair("p", "good", "bad")]
        assert dataset.provenance["lines_skipped"] == 1

    def test_what_is_wrong_is_never_learnt_as_a_trace(self):
        dataset = store(
            said("p", "good", True), said("p", "bad", False), said("q", "right", True), kind="trace"
        )
        assert dataset.kind == "trace"
        assert texts(dataset) == [["p", "good"], ["q", "right"]]
        assert dataset.provenance["left_out"] == {"answers whose label is false": 1}

    def test_bad_answers_alone_are_nothing_to_learn(self):
        with pytest.raises(ImportRefused, match="holds no example"):
            store(said("p", "bad", False), kind="trace")

    def test_messages_and_their_surroundings(self):
        prompt = [{"role": "user", "content": "p"}]
        answer = [{"role": "assistant", "content": "good"}]
        tools = [{"name": "f"}]
        dataset = store(
            said(prompt, answer, True, tools=tools, system="s", topic="x", length=4),
            said(prompt, "bad", False, tools=tools, system="s", topic="x", length=3),
        )
        (found,) = contents(dataset)
        assert [message["role"] for message in found["prompt"]] == ["system", "user"]
        assert found["tools"][0]["function"]["name"] == "f"
        assert dataset.items.get().trace.meta == {
            "topic": "x",
            "length": {"chosen": 4, "rejected": 3},
        }

    def test_other_surroundings_are_another_prompt(self):
        problems = problems_of(
            said("p", "good", True, system="s"), said("p", "bad", False, system="t")
        )
        assert len(problems) == 2

    def test_a_table_has_its_verdicts_as_text(self):
        content = b"prompt,completion,label\np,good,True\np,bad,FALSE\n"
        assert texts(store(content=content)) == [pair("p", "good", "bad")]
        content = b"prompt,completion,label\nq,good,1\nq,bad,0\n"
        assert texts(store(content=content, name="q")) == [pair("q", "good", "bad")]

    @pytest.mark.parametrize(("good", "bad"), [(1, 0), (1.0, 0.0), ("1", "0")])
    def test_one_and_zero_are_verdicts(self, good: Any, bad: Any):
        dataset = store(said("p", "good", good), said("p", "bad", bad))
        assert texts(dataset) == [pair("p", "good", "bad")]

    @pytest.mark.parametrize("label", [None, 2, -1, "maybe", [True]])
    def test_other_verdicts_are_bad_lines(self, label: Any):
        problems = problems_of(said("p", "good", True), said("p", "bad", label))
        assert problems[0][0] in (1, 2)
        assert nothing_is_stored()

    def test_the_same_answer_with_both_verdicts_is_refused(self):
        problems = problems_of(said("p", "x", True), said("p", "x", False))
        assert problems == [(1, "chosen and rejected are the same; there is nothing to prefer")]

    def test_parts_are_those_of_both_answers(self):
        dataset = store(
            said("p", "good", True, split="held_out"), said("p", "bad", False, split="held_out"),
            said("q", "good", True, split="train"), said("q", "bad", False, split="train"),
        )  # fmt: skip
        assert dataset.held_out_size == 1

    def test_parts_that_differ_are_refused(self):
        with pytest.raises(BadLines) as error:
            store(said("p", "good", True, split="held_out"), said("p", "bad", False, split="train"))
        assert "is in the part held_out, the other answer" in error.value.problems[0].reason

    def test_a_label_that_says_nothing_is_ignored(self):
        dataset = store(said("p", "c", True), said("q", "d", False), ignore=["label"])
        assert (dataset.kind, dataset.size) == ("trace", 2)

    def test_a_limit_counts_pairs(self):
        lines = [said(str(n // 2), str(n), n % 2 == 0) for n in range(20)]
        assert store(*lines, limit=3).size == 3

    def test_another_format_is_not_taken_for_it(self):
        problems = problems_of(said("p", "bad", False), format="prompt_completion")
        assert problems == [(1, "is a kto line, not a prompt_completion line")]

    def test_what_is_left_out_can_be_seen(self, tmp_path: Path):
        skipped = tmp_path / "skipped.jsonl"
        filling = importers.Filling(tmp_path / "staging.sqlite3")
        request = importers.ImportRequest(name="a", version="v1", skip_bad=0.5)
        reading = importers._Reading(filling, request, skipped, None, importers.no_progress)
        lines = [said("p", "good", True), said("p", "bad", False), said("q", "right", True)]
        reading.read([importers.Part(io.BytesIO(jsonl(*lines)), "")])
        assert json.loads(skipped.read_text())["content"] == lines[2]
        filling.close()

    def test_many_answers_to_one_prompt(self, tmp_path: Path):
        verdicts = Verdicts(tmp_path / "grouped.sqlite3")
        for number in range(20_000):
            verdicts.add(number, "", said("p", str(number), number % 2 == 0), None)
        assert sum(1 for _ in verdicts.examples(None)) == 10_000
        verdicts.close()


# --- OASST ----------------------------------------------------------------------------------------


def message(name: str, parent: str | None, text: str = "", **rest: Any) -> dict[str, Any]:
    """Of the assistant if its name begins with a."""
    role = "assistant" if name.startswith("a") else "prompter"
    return {
        "message_id": name, "parent_id": parent, "role": role, "text": text or name,
    } | rest  # fmt: skip


TREE = [
    message("p1", None, message_tree_id="p1", lang="en"),
    message("a1", "p1", rank=1),
    message("a0", "p1", rank=0, labels={"quality": 0.3}, deleted=False, review_result=True),
    message("a2", "p1", rank=2),
    message("p2", "a0", rank=None),
    message("a3", "p2", rank=0),
    message("p3", "a3"),
]


class TestOasst:
    def test_the_best_path_of_a_tree_becomes_a_conversation(self):
        dataset = store(*TREE, message("q1", None), message("aq", "q1"))
        assert dataset.kind == "conversation"
        assert texts(dataset) == [["p1", "a0", "p2", "a3"], ["q1", "aq"]]
        first = dataset.items.order_by("position")[0].trace
        assert first.meta == {"message_tree_id": "p1", "lang": "en"}
        assert dataset.provenance["left_out"] == {"messages beside the best path of their tree": 3}
        assert dataset.provenance["format"] == "oasst"

    def test_the_order_of_the_lines_does_not_count(self):
        assert store(*TREE).fingerprint == store(*TREE[::-1], name="b").fingerprint

    def test_replies_of_different_ranks_become_pairs(self):
        dataset = store(*TREE, message("a4", "p1", rank=0), kind="preference")
        assert texts(dataset) == [pair("p1", "a0", "a1"), pair("p1", "a0", "a2")]
        assert dataset.provenance["left_out"] == {"replies that are in no pair": 2}

    def test_pairs_have_the_path_to_them_as_prompt(self):
        dataset = store(*TREE, message("a4", "p2", rank=1), kind="preference")
        assert texts(dataset)[-1] == (["p1", "a0", "p2"], ["a3"], ["a4"])

    def test_without_ranks_the_first_reply_counts(self):
        lines = [message("p", None), message("a1", "p"), message("a0", "p")]
        assert texts(store(*lines)) == [["p", "a1"]]
        with pytest.raises(ImportRefused, match="holds no example"):
            store(*lines, name="b", kind="preference")

    def test_what_belongs_to_no_tree_is_named(self):
        problems = problems_of(
            *TREE,
            message("ax", "not-there"),
            message("px", "ax"),
            message("ay", "py"),
            message("py", "ay"),
            message("az", "py"),
            message("self", "self"),
        )
        assert problems == [
            (8, "the parent_id not-there is not among the messages that are valid"),
            (9, "the message px follows one whose parent_id is not valid"),
            (10, "the message ay is among its own parents, or follows such a one"),
            (11, "the message py is among its own parents, or follows such a one"),
            (12, "the message az is among its own parents, or follows such a one"),
            (13, "the message self is among its own parents, or follows such a one"),
        ]

    def test_deleted_messages_and_what_follows_them_are_named(self):
        problems = problems_of(
            *(message("p", None), message("a", "p", deleted=True), message("p2", "a")),
            message("ab", "p", review_result=False),
        )
        assert problems == [
            (2, "the message a was deleted"),
            (4, "the message ab was refused by its reviewers"),
            (3, "the parent_id a is not among the messages that are valid"),
        ]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"message_id": "p1"}, "the message_id p1 stands twice"),
            ({"message_id": 5}, "message_id: must be text, not a number"),
            ({"message_id": None}, "message_id: must be text, not null"),
            ({"parent_id": 5}, "parent_id: must be text or null, not a number"),
            ({"role": "system"}, "role: must be prompter or assistant, not 'system'"),
            ({"role": None}, "role: must be prompter or assistant, not 'None'"),
            ({"text": " "}, "text: must be text, and not blank"),
            ({"text": None}, "text: must be text, and not blank"),
            ({"rank": "best"}, "rank: must be a number or null, not text"),
            ({"rank": True}, "rank: must be a number or null, not true or false"),
            ({"rating": 3}, "is an example with a rating (rating), which would be left out"),
        ],
    )
    def test_bad_messages(self, change: dict[str, Any], reason: str):
        ((line, found),) = problems_of(*TREE, message("an", "p1") | change)
        assert (line, found[: len(reason)]) == (8, reason)

    def test_a_tree_that_begins_with_the_assistant_is_refused(self):
        assert problems_of(message("a", None))[0][1] == "there is no message of the user"

    def test_prompts_without_a_reply_are_counted(self):
        dataset = store(*TREE, message("q", None))
        assert dataset.size == 1
        assert dataset.provenance["left_out"] == {"messages beside the best path of their tree": 4}

    def test_a_table_is_read_as_well(self):
        content = "message_id,parent_id,role,text,rank,deleted\np,,prompter,Hi,,False\n"
        content += "a1,p,assistant,worse,1.0,False\na2,p,assistant,better,0.0,False\n"
        assert texts(store(content=content.encode())) == [["Hi", "better"]]

    def test_parts_are_those_of_the_tree(self):
        lines = [message("p", None, split="held_out"), message("a", "p", split="held_out")]
        more = [message("q", None, split="train"), message("aq", "q", split="train")]
        assert store(*lines, *more).held_out_size == 1
        with pytest.raises(BadLines) as error:
            store(*lines[:1], message("a", "p", split="train"), name="b")
        assert "in several parts" in error.value.problems[0].reason

    @pytest.mark.parametrize("kind", [None, "preference"])
    def test_a_chain_of_100_000_messages_is_refused_in_bounded_time(
        self, tmp_path: Path, kind: str | None
    ):
        trees = Trees(tmp_path / "grouped.sqlite3")
        for number in range(100_000):
            name = f"{'p' if number % 2 == 0 else 'a'}{number}"
            above = f"{'a' if number % 2 == 0 else 'p'}{number - 1}" if number else None
            trees.add(number, "", message(name, above, rank=0), None)
        trees.add(100_000, "", message("ax", "p99998", rank=1), None)
        (found,) = trees.examples(kind)
        assert str(found.result) == "has more than 1,000 messages from the root of its tree"
        trees.close()

    def test_what_becomes_much_more_than_it_is_ends(self, settings):
        names = [f"{'a' if number % 2 else 'p'}{number}" for number in range(101)]
        chain = [
            message(name, above, "x" * 1_000)
            for name, above in zip(names, [None, *names], strict=False)
        ]
        replies = [
            [message(f"a-{n}", "p100", rank=0), message(f"a-{n}-", "p100", rank=1)]
            for n in range(100)
        ]
        settings.TUNIXRT_UNPACKED_MAX_BYTES = 1_000_000
        with pytest.raises(ImportRefused, match="have more than 1,000,000 bytes"):
            store(*chain, *(line for both in replies for line in both), kind="preference")
        assert nothing_is_stored()


def test_lines_of_one_format_are_no_lines_of_the_other():
    assert recognise(TREE[0]) == "oasst"
    assert recognise(said("p", "c", True)) == "kto"
    assert len(problems_of(*TREE, said("p", "c", True))) == 1
