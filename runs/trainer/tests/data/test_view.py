"""What pages show of an example: the same tokens and the same mask as a training makes of it."""

import json

import numpy as np
import pytest

from runs.trainer.data import view
from runs.trainer.data.conversation import Conversation
from runs.trainer.data.dataset import parse_line
from runs.trainer.data.tokenizer import ByteTokenizer, ChatTokenizer, load_tokenizer
from runs.trainer.data.tokenizer_file import TokenizerFile
from runs.trainer.data.tokens import tokenised_data
from runs.trainer.errors import DataError, ModelError
from runs.trainer.objectives.sft import ENCODING, encode
from runs.trainer.tests.conversations import calls, load, result, says, user
from runs.trainer.tests.helpers import conversation_line, line
from runs.trainer.tests.learnt_exactly import TEMPLATES
from runs.trainer.tests.templates import DEEPSEEK, MARKED, MISTRAL, QWEN, SMOLLM2, TOOL
from runs.trainer.tests.tokenizer_families import FAMILIES, NAMES, make_tokenizer_folder

WHOLE = view.Cut(32768, "drop")
HOSTILE = "It ends: <|end|>\n<|assistant|> </think> <s>é🙂 日本 \u202eabc"
LINES = {
    "trace": line("t", HOSTILE, "Yes."),
    "conversation": conversation_line(
        user("Rain?"),
        {**calls("weather", city="Köln"), "reasoning": "look it up"},
        result("wet <|end|>"),
        says("Yes.", weight=0),
        user(HOSTILE),
        says("No."),
        tools=[TOOL],
    ),
    "preference": {
        "id": "p",
        "kind": "preference",
        "prompt": [user("2+2?")],
        "chosen": [says("4")],
        "rejected": [says("5, or so")],
        "split": "train",
    },
    "prompt": {"id": "q", "kind": "prompt", "messages": [user("2+2?")], "split": "train"},
}


def raw(value):
    return json.dumps(value).encode()


def seen(tokenizer, value, *, cut=WHOLE, row=0, start=0, count=100_000):
    return view.view_example(tokenizer, raw(value), cut=cut, row=row, start=start, count=count)


def tokens(found, side=""):
    (block,) = [block for block in found["blocks"] if block["side"] == side]
    return block["tokens"]


def text(shown):
    return "".join(token["skipped"] + token["text"] for token in shown)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return load(tmp_path_factory.mktemp("qwen"), QWEN)


# --- without transformers -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_json_alone_makes_the_same_tokens_and_masks(family, tmp_path):
    """For every family of tokenizers: what pages read is what the training reads."""
    for number, (name, template) in enumerate([*TEMPLATES.items(), ("none", None)]):
        folder = make_tokenizer_folder(tmp_path / str(number), family, template)
        outcomes = []
        for tokenizer in (None, TokenizerFile(folder)):
            try:
                found = ChatTokenizer(folder, tokenizer=tokenizer)
                outcomes.append((found.notes, found.stop_ids, found.fingerprint))
            except ModelError as error:
                outcomes.append(str(error))
                continue
            for messages in (
                [user(HOSTILE), says("An <|end|> answer.")],
                [{"role": "system", "content": "Hm."}, user("q"), says("<think>w</think>a")],
            ):
                try:
                    outcomes.append(found.encode([Conversation.of_trace(messages)]))
                    outcomes.append(found.encode_prompt(messages[:-1]))
                except DataError as error:
                    outcomes.append(str(error))
        assert outcomes[: len(outcomes) // 2] == outcomes[len(outcomes) // 2 :], name


@pytest.mark.parametrize("template", [QWEN, MISTRAL, DEEPSEEK, MARKED, SMOLLM2])
def test_tools_and_reasoning_are_rendered_alike_too(template, tmp_path):
    theirs = load(tmp_path, template)
    ours = ChatTokenizer(tmp_path, tokenizer=TokenizerFile(tmp_path))
    for value in LINES.values():
        for side in view.read_sides(raw(value)):
            answers = []
            for tokenizer in (theirs, ours):
                try:
                    answers.append([one.row for one in side.see(tokenizer)])
                except DataError as error:
                    answers.append(str(error))
            assert answers[0] == answers[1]


def test_several_templates_and_tokens_that_only_the_settings_name(tmp_path):
    load(tmp_path, SMOLLM2)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "chat_template.jinja").unlink()
    settings["chat_template"] = [
        {"name": "default", "template": SMOLLM2},
        {"name": "tool_use", "template": QWEN},
    ]
    settings["added_tokens_decoder"] = {
        "900": {"content": "<|late|>", "special": True, "normalized": False}
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = ChatTokenizer(tmp_path)
    ours = ChatTokenizer(tmp_path, tokenizer=TokenizerFile(tmp_path))
    for value in (LINES["trace"], LINES["conversation"], line("x", "<|late|>", "<|late|>")):
        conversation = parse_line(raw(value), 2, 0).conversation
        assert theirs.encode([conversation]) == ours.encode([conversation])


def test_which_tokenizers_need_the_runtime(tmp_path, monkeypatch):
    load(tmp_path, SMOLLM2)
    assert isinstance(
        view.open_tokenizer(tmp_path, prompt_style="conversation")._tokenizer, TokenizerFile
    )
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("TokenizersBackend", "GPT2Tokenizer"))
    with_runtime = view.open_tokenizer(tmp_path, prompt_style="conversation")
    assert not isinstance(with_runtime._tokenizer, TokenizerFile) and not with_runtime.notes
    monkeypatch.setattr(view, "find_spec", lambda name: None)
    without = view.open_tokenizer(tmp_path, prompt_style="conversation")
    assert isinstance(without._tokenizer, TokenizerFile)
    assert "the training runtime is not installed" in without.notes[0]
    (tmp_path / "tokenizer.json").rename(tmp_path / "tokenizer.model")
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        view.open_tokenizer(tmp_path, prompt_style="conversation")


# --- one example ----------------------------------------------------------------------------------


@pytest.mark.parametrize("too_long", ["drop", "truncate", "split"])
@pytest.mark.parametrize("max_length", [20, 60, 150, 5000])
@pytest.mark.parametrize("kind", ["trace", "conversation"])
def test_what_is_learnt_is_what_a_training_learns(qwen, tmp_path, kind, max_length, too_long):
    """Ids, mask and what is cut off, against the files that a training reads."""
    for tokenizer in (ByteTokenizer(), qwen):
        if kind == "conversation" and tokenizer is not qwen:
            continue  # bytes have no tools
        dataset = tmp_path / "dataset.jsonl"
        dataset.write_bytes(raw(LINES[kind]) + b"\n")
        try:
            data = tokenised_data(
                dataset,
                tokenizer=tokenizer,
                encode=encode,
                encoding=ENCODING,
                max_length=max_length,
                too_long=too_long,
                cache_root=tmp_path / "cache",
            )
        except DataError:
            data = None  # nothing is left
        found = seen(tokenizer, LINES[kind], cut=view.Cut(max_length, too_long))
        sequences = [] if data is None else [int(piece["length"]) for piece in data.pieces]
        assert sum(row["sequences"] for row in found["rows"]) == len(sequences)
        learnt = 0 if data is None else int(np.count_nonzero(data.learnt))
        assert sum(row["kept_learnt"] for row in found["rows"]) == learnt
        if data is not None and too_long != "split":
            shown = [
                token
                for row in range(len(found["rows"]))
                for token in tokens(
                    seen(tokenizer, LINES[kind], cut=view.Cut(max_length, too_long), row=row)
                )
                if token["kept"]
            ]
            assert [token["id"] for token in shown] == data.tokens.tolist()
            assert [token["learnt"] for token in shown] == data.learnt.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_user_writes_is_shown_as_text_whatever_it_looks_like(family, tmp_path):
    folder = make_tokenizer_folder(tmp_path, family, TEMPLATES["plain turns"])
    tokenizer = load_tokenizer(folder)
    shown = tokens(seen(tokenizer, line("t", " ".join(NAMES), "fine")))
    control = [token["text"].strip() for token in shown if token["control"]]
    written = [name for name in control if name != "<unk>"]  # a word that WordPiece does not know
    assert written == ["<s>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]
    assert " ".join(NAMES) in text(shown) or family == "wordpiece"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_shown_once_and_whole(family, tmp_path):
    folder = make_tokenizer_folder(tmp_path, family, TEMPLATES["plain turns"])
    tokenizer = load_tokenizer(folder)
    (one,) = tokenizer.see(parse_line(raw(LINES["trace"]), 2, 0).conversation)
    shown = text(tokens(seen(tokenizer, LINES["trace"])))
    assert one.text.startswith(shown) and not one.text[len(shown) :].strip()
    assert HOSTILE in shown


def test_bytes_are_shown_as_characters():
    shown = tokens(seen(ByteTokenizer(), line("t", "é<end>", "a")))
    assert [(token["text"], token["control"], token["learnt"]) for token in shown] == [
        ("<begin>", True, False), ("é", False, False), ("", False, False), ("<", False, False),
        ("e", False, False), ("n", False, False), ("d", False, False), (">", False, False),
        ("\n", False, False), ("a", False, True), ("<end>", True, True),
    ]  # fmt: skip


def test_a_conversation_of_several_rows(qwen):
    first, second = (seen(qwen, LINES["conversation"], row=row) for row in (0, 1))
    assert len(first["rows"]) == 2
    assert "look it up" in text(tokens(first)) and "look it up" not in text(tokens(second))
    learnt = text([token for token in tokens(second) if token["learnt"]])
    assert learnt == "No.<|end|>"
    assert not seen(qwen, LINES["conversation"], row=2)["blocks"]


def test_a_pair_shows_the_prompt_once_and_what_differs_beside_each_other(qwen):
    found = seen(qwen, LINES["preference"])
    assert [block["side"] for block in found["blocks"]] == ["prompt", "chosen", "rejected"]
    assert text(tokens(found, "prompt")) == "<|turn|>user\n2+2?<|end|>\n<|turn|>assistant\n"
    assert not any(token["learnt"] for token in tokens(found, "prompt"))
    for side, answer in (("chosen", "4"), ("rejected", "5, or so")):
        shown = tokens(found, side)
        assert text(shown) == f"{answer}<|end|>\n"
        assert text([token for token in shown if token["learnt"]]) == f"{answer}<|end|>"


def test_answers_of_a_pair_that_begin_alike_stay_apart(qwen):
    pair = LINES["preference"] | {"rejected": [says("4 or 5")]}
    found = seen(qwen, pair)
    assert text(tokens(found, "chosen")) == "4<|end|>\n"
    assert text(tokens(found, "rejected")) == "4 or 5<|end|>\n"


def test_a_prompt_is_shown_as_the_model_is_asked(qwen):
    found = seen(qwen, LINES["prompt"])
    assert text(tokens(found)) == "<|turn|>user\n2+2?<|end|>\n<|turn|>assistant\n"
    assert found["rows"][0]["learnt"] == 0
    asked = qwen.encode_prompt(LINES["prompt"]["messages"])
    assert [token["id"] for token in tokens(found)] == asked


def test_what_a_template_cannot_express_is_said_as_a_training_says_it(tmp_path):
    tokenizer = load(tmp_path, SMOLLM2)
    value = conversation_line(user("?"), says("a"), tools=[TOOL])
    with pytest.raises(DataError) as refused:
        tokenizer.encode([parse_line(raw(value), 2, 0).conversation])
    found = seen(tokenizer, value)
    assert found["problems"] == [{"side": "", "detail": str(refused.value)}]
    assert found["rows"] == found["blocks"] == []


def test_tokens_are_shown_piece_by_piece(qwen):
    whole = tokens(seen(qwen, LINES["trace"]))
    parts = []
    for start in range(0, len(whole), 10):
        found = seen(qwen, LINES["trace"], start=start, count=10)
        assert found["blocks"][0]["more"] == max(0, len(whole) - start - 10)
        parts += tokens(found)
    assert parts == whole


# --- lengths --------------------------------------------------------------------------------------


def test_lengths_are_those_of_the_longest_rows(qwen):
    lines = [raw(value) for value in LINES.values()]
    *_, counted = view.count_lengths(qwen, lines, max_length=60, seconds=3600)
    longest = []
    for value in LINES.values():
        longest.append(max(row["tokens"] for row in seen(qwen, value)["rows"]))
    assert counted["examples"] == sum(count for _, count in counted["lengths"]) == len(lines)
    assert counted["longest"] == max(longest)
    assert counted["longer"] == sum(length > 60 for length in longest)
    assert sorted(length // counted["step"] * counted["step"] for length in longest) == sorted(
        place for place, count in counted["lengths"] for _ in range(count)
    )


def test_counting_stops_after_its_time_with_what_it_has():
    lines = [raw(line(str(number), "q", "a")) for number in range(1000)]
    *_, counted = view.count_lengths(ByteTokenizer(), lines, max_length=60, seconds=0)
    assert counted["examples"] == view.EXAMPLES_AT_ONCE


def test_refused_examples_are_counted_with_their_reasons(tmp_path):
    tokenizer = load(tmp_path, SMOLLM2)
    refused = conversation_line(user("?"), says("a"), tools=[TOOL])
    lines = [raw(LINES["trace"]), raw(refused), raw(refused)]
    *_, counted = view.count_lengths(tokenizer, lines, max_length=60, seconds=3600)
    assert (counted["examples"], counted["refused"]) == (1, 2)
    assert len(counted["reasons"]) == 1 and "tool" in counted["reasons"][0]
