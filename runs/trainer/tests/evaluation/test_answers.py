"""Texts of outputs: where they end, and how long they are."""

from typing import Any

import pytest

from runs.spec.architectures import read_architecture
from runs.spec.kinds import EVALUATE
from runs.trainer.data.tokenizer import ByteTokenizer
from runs.trainer.errors import DataError, ManifestProblem
from runs.trainer.evaluation.answers import (
    Answers,
    Prompt,
    StopTexts,
    encode_prompts,
    most_prompt_tokens,
)
from runs.trainer.evaluation.generate import LENGTH, STOP, Output
from runs.trainer.evaluation.items import Question
from runs.trainer.tests.helpers import CONFIG

ARCHITECTURE = read_architecture(CONFIG)
BYTES = ByteTokenizer()
ASKED = Question("a", "h", [{"role": "user", "content": "q"}], None, None)


def answers(*, characters: int = 1000, **settings: Any) -> Answers:
    return Answers(
        EVALUATE.defaults() | settings,
        [Prompt(ASKED, [1, 2], True)],
        tokenizer=BYTES,
        architecture=ARCHITECTURE,
        itemsize=4,
        characters=characters,
    )


def output(text: str, reason: str = LENGTH) -> Output:
    end = [ByteTokenizer.END] if reason == STOP else []
    return Output(0, 0, [*text.encode(), *end], reason)


@pytest.mark.parametrize(
    ("text", "left", "tokens"),
    [
        ("a\n\nb", "a", 3),
        ("ab", "ab", 2),
        ("a END\n\n", "a ", 5),
        ("\n\n", "", 2),
        ("ü\n\n", "ü", 4),
    ],
)
def test_an_output_is_cut_before_the_first_stop_text(text: str, left: str, tokens: int):
    answer = answers(stop=["\n\n", "END"])._answer(output(text))

    assert (answer.text, answer.tokens) == (left, tokens)
    assert answer.finish_reason == ("length" if text == "ab" else "stop")


def test_the_end_token_counts_and_is_no_text():
    answer = answers()._answer(output("ab", STOP))

    assert (answer.text, answer.tokens, answer.finish_reason) == ("ab", 3, "stop")


def test_a_very_long_text_is_shortened_and_marked():
    answer = answers(characters=100)._answer(output("\x00" * 101))

    assert answer.text == "\x00" * 100
    assert answer.more == {"cut": True}
    assert answers(characters=101)._answer(output("\x00" * 101)).more == {}


def test_a_stop_text_is_found_where_it_ends_in_what_is_new():
    stop = StopTexts(["x" * 64], BYTES)
    tokens = list(("a" * 500 + "x" * 64).encode())

    assert stop.are_in(tokens)
    assert stop.are_in([*tokens, *b"b" * 15])
    assert not stop.are_in(tokens[:-1])


def test_prompts_have_the_room_that_outputs_leave():
    settings = EVALUATE.defaults()
    positions = ARCHITECTURE.positions

    assert most_prompt_tokens(settings, ARCHITECTURE) == positions - 256
    assert most_prompt_tokens(settings | {"max_prompt_tokens": 9}, ARCHITECTURE) == 9
    assert most_prompt_tokens(settings | {"method": "choices"}, ARCHITECTURE) == positions
    with pytest.raises(ManifestProblem, match="leaves no room"):
        most_prompt_tokens(settings | {"max_tokens": positions}, ARCHITECTURE)


def test_a_question_that_cannot_be_written_is_named():
    tool = Question("call", "h", [{"role": "tool", "content": "x"}], None, None)
    with pytest.raises(DataError, match="example call: "):
        encode_prompts([tool], BYTES, most=100)
