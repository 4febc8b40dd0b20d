"""The tokenised dataset: what happens to long examples, and the cache."""

import json
import os
from functools import partial

import numpy as np
import pytest

from runs.trainer.data.conversation import Conversation
from runs.trainer.data.inputs import input_warnings
from runs.trainer.data.seen import token_texts
from runs.trainer.data.tokenizer import ByteTokenizer
from runs.trainer.data.tokens import tokenised_data
from runs.trainer.errors import DataError, ModelError
from runs.trainer.objectives.sft import ENCODING, encode
from runs.trainer.tests.helpers import conversation_line, encode_trace, line


def build(
    tmp_path, examples, *, max_length=128, too_long="drop", encoding=ENCODING, tokenizer=None
):
    path = tmp_path / "dataset.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return tokenised_data(
        path,
        tokenizer=tokenizer or ByteTokenizer(),
        encode=encode,
        encoding=encoding,
        max_length=max_length,
        too_long=too_long,
        cache_root=tmp_path / ("rows" if tokenizer else "cache"),
    )


def pieces(data):
    """``(ids, index of the first learnt token)`` of every piece; here all after it are learnt."""
    found = []
    for piece in data.pieces:
        span = slice(piece["start"], piece["start"] + piece["length"])
        mask = data.learnt[span]
        first = int(mask.argmax())
        assert mask[first:].all()
        found.append((data.tokens[span].tolist(), first))
    return found


# begin + 9 letters + newline, then 300 letters and the end: 312 tokens, 301 of them learnt
LONG = line("long", "q" * 9, "".join(chr(97 + i % 26) for i in range(300)))
SHORT = line("short", "q", "a")


def test_drop(tmp_path):
    data = build(tmp_path, [LONG, SHORT])
    assert len(data.pieces) == 1
    assert data.counts["train"] == {
        "examples": 2, "pieces": 1, "tokens": 5, "answer_tokens": 2,
        "dropped": 1, "truncated": 0, "split": 0, "no_answer": 0,
    }  # fmt: skip


def test_truncate(tmp_path):
    data = build(tmp_path, [LONG, SHORT], too_long="truncate")
    (ids, answer), _ = pieces(data)
    assert (len(ids), answer) == (128, 11)
    assert data.counts["train"]["truncated"] == 1


def test_split_learns_every_answer_token_once(tmp_path):
    whole = encode_trace(ByteTokenizer(), LONG["messages"]).ids
    data = build(tmp_path, [LONG], too_long="split")
    assert data.counts["train"]["split"] == 1
    assert len(data.pieces) == 3
    assert max(len(ids) for ids, _ in pieces(data)) <= 128
    learnt = [token for ids, answer in pieces(data) for token in ids[answer:]]
    assert learnt == whole[11:]
    for _, answer in pieces(data)[1:]:
        assert answer == 32  # a quarter of a row as context


def test_a_prompt_that_fills_the_row_leaves_nothing_to_learn(tmp_path):
    long_prompt = line("p", "q" * 200, "a")
    with pytest.raises(DataError, match="nothing is left to learn"):
        build(tmp_path, [long_prompt], too_long="truncate")
    data = build(tmp_path, [long_prompt, SHORT], too_long="truncate")
    assert data.counts["train"]["no_answer"] == 1
    split = build(tmp_path, [long_prompt], too_long="split")
    assert [token for ids, answer in pieces(split) for token in ids[answer:]] == [ord("a"), 258]


def test_splits_are_counted_apart_and_answers_found(tmp_path):
    held = line("h", "1?", "one\n1", final_answer="1", held_out=True)
    data = build(tmp_path, [SHORT, held, line("h2", "2?", "2", held_out=True)])
    assert data.select(held_out=False).tolist() == [0]
    assert data.select(held_out=True).tolist() == [1, 2]
    assert data.counts["held_out"]["examples"] == 2
    assert data.answers.tolist() == [len(json.dumps(SHORT)) + 1]


def user(content):
    return {"role": "user", "content": content}


def says(content, **more):
    return {"role": "assistant", "content": content, **more}


class OneRowEach(ByteTokenizer):
    """As with a template that changes earlier messages: each answer has a row of its own."""

    def encode(self, conversations):
        return [
            [
                row
                for position in each.learnt
                for [row] in super(OneRowEach, self).encode(
                    [Conversation.of_trace(each.messages[: position + 1])]
                )
            ]
            for each in conversations
        ]


# begin, "q\n" twice, answers of 10 and 110 letters with their ends
TURNS = conversation_line(user("q"), says("a" * 10), user("q"), says("b" * 110))


def masked(data):
    """``(ids, mask)`` of every piece."""
    return [
        (data.tokens[span].tolist(), data.learnt[span].tolist())
        for piece in data.pieces
        for span in [slice(piece["start"], piece["start"] + piece["length"])]
    ]


def test_a_row_of_several_answers_keeps_its_mask(tmp_path):
    data = build(tmp_path, [TURNS, SHORT], max_length=128)
    [(ids, mask), _] = masked(data)
    assert len(ids) == 1 + 2 + 11 + 2 + 111
    assert mask == [False] * 3 + [True] * 11 + [False] * 2 + [True] * 111
    assert data.counts["train"] == {
        "examples": 2, "pieces": 2, "tokens": 132, "answer_tokens": 124,
        "dropped": 0, "truncated": 0, "split": 0, "no_answer": 0,
    }  # fmt: skip


def test_the_end_of_a_row_of_several_answers_is_cut_or_split(tmp_path):
    data = build(tmp_path, [TURNS], max_length=32, too_long="truncate")
    [(_, mask)] = masked(data)
    assert mask == [False] * 3 + [True] * 11 + [False] * 2 + [True] * 16
    assert data.counts["train"]["truncated"] == 1

    data = build(tmp_path, [TURNS], max_length=32, too_long="split")
    learnt = [id for ids, mask in masked(data) for id, yes in zip(ids, mask, strict=True) if yes]
    assert learnt == [*b"a" * 10, 258, *b"b" * 110, 258]
    assert data.counts["train"]["answer_tokens"] == 122
    assert data.counts["train"]["split"] == 1


def test_an_example_of_several_rows_counts_once(tmp_path):
    rows = partial(build, tmp_path, tokenizer=OneRowEach())
    data = rows([TURNS, SHORT])
    assert [len(ids) for ids, _ in masked(data)] == [14, 127, 5]
    assert data.counts["train"]["examples"] == 2
    assert data.counts["train"]["answer_tokens"] == 11 + 111 + 2
    assert data.counts["length_histogram"] == [[0, 1], [112, 1]]
    assert len(set(data.pieces["offset"].tolist())) == 2

    data = rows([TURNS, SHORT], max_length=64)  # drop skips the example
    assert [len(ids) for ids, _ in masked(data)] == [5]
    assert data.counts["train"]["dropped"] == 1
    assert data.counts["train"]["no_answer"] == 0

    data = rows([TURNS, SHORT], max_length=64, too_long="truncate")
    assert [len(ids) for ids, _ in masked(data)] == [14, 64, 5]
    assert data.counts["train"]["truncated"] == 1

    data = rows([TURNS, SHORT], max_length=64, too_long="split")
    assert data.counts["train"]["answer_tokens"] == 11 + 111 + 2
    assert data.counts["train"]["split"] == 1


def test_a_held_out_conversation_with_a_final_answer_is_solved(tmp_path):
    held = conversation_line(user("q"), says("a\n7"), final_answer="7", split="held_out")
    data = build(tmp_path, [SHORT, held])
    assert data.answers.tolist() == [len(json.dumps(SHORT)) + 1]


def test_developers_that_are_written_as_system_are_counted(tmp_path):
    developer = {"role": "developer", "content": "d"}
    data = build(tmp_path, [SHORT, conversation_line(developer, user("q"), says("a"))])
    assert data.counts["developers_moved"] == 1
    assert data.counts["systems_moved"] == 0
    warnings = input_warnings(ByteTokenizer(), data, positions=128)
    assert warnings == [
        "The chat template knows no developer: in 1 example developers' messages are written as"
        " system messages."
    ]


def test_a_conversation_that_cannot_be_written_is_named(tmp_path):
    reasons = conversation_line(user("q"), says("a", reasoning="hm"))
    with pytest.raises(DataError, match=r"line 2 \(c\): the built-in presets read bytes"):
        build(tmp_path, [SHORT, reasons])


def test_the_same_data_is_tokenised_once(tmp_path):
    build(tmp_path, [SHORT])
    [folder] = (tmp_path / "cache").iterdir()
    stamp = os.stat(folder / "tokens.bin").st_mtime_ns
    build(tmp_path, [SHORT])
    assert os.stat(folder / "tokens.bin").st_mtime_ns == stamp
    build(tmp_path, [SHORT], max_length=256)
    build(tmp_path, [line("short", "q", "b")])
    build(tmp_path, [SHORT], encoding="another")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_cache_that_is_being_removed_is_made_again(tmp_path):
    tokens = build(tmp_path, [SHORT]).tokens.tolist()
    [folder] = (tmp_path / "cache").iterdir()
    (folder / "tokens.bin").unlink()  # an erasure removes one file after another
    assert build(tmp_path, [SHORT]).tokens.tolist() == tokens


def test_a_failed_tokenisation_leaves_nothing(tmp_path):
    with pytest.raises(DataError):
        build(tmp_path, [SHORT, {}])
    assert list((tmp_path / "cache").iterdir()) == []


def test_ids_beyond_the_models_vocabulary(tmp_path):
    data = build(tmp_path, [SHORT])
    data.check_vocabulary(259)
    with pytest.raises(ModelError, match="gives id 258, but the model's vocabulary ends at 257"):
        data.check_vocabulary(258)


def test_tokens_are_mapped_not_read(tmp_path):
    data = build(tmp_path, [SHORT] * 3000)
    assert isinstance(data.tokens, np.memmap)
    assert isinstance(data.pieces, np.memmap)
    assert len(data.pieces) == 3000


def test_the_texts_of_tokens_put_together_are_the_text():
    tokenizer = ByteTokenizer()
    ids = encode_trace(
        tokenizer, [{"role": "user", "content": "né?"}, {"role": "assistant", "content": "日"}]
    ).ids

    assert token_texts(ids, tokenizer) == [
        "<begin>",
        "n",
        "",
        "é",
        "?",
        "\n",
        "",
        "",
        "日",
        "<end>",
    ]
    assert token_texts(ids[:3], tokenizer) == ["<begin>", "n", "\ufffd"]  # cut within a character
