"""The tokenised dataset: what happens to long examples, and the cache."""

import json
import os

import numpy as np
import pytest

from runs.trainer.data.seen import token_texts
from runs.trainer.data.tokenizer import ByteTokenizer
from runs.trainer.data.tokens import tokenised_data
from runs.trainer.errors import DataError, ModelError
from runs.trainer.objectives.sft import ENCODING, encode
from runs.trainer.tests.helpers import encode_trace, line


def build(tmp_path, examples, *, max_length=128, too_long="drop", encoding=ENCODING):
    path = tmp_path / "dataset.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return tokenised_data(
        path,
        tokenizer=ByteTokenizer(),
        encode=encode,
        encoding=encoding,
        max_length=max_length,
        too_long=too_long,
        cache_root=tmp_path / "cache",
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
