"""From the questions of a set to outputs: prompts in tokens, generation, the texts that end it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runs.spec.architectures import Architecture
from runs.trainer.data.conversation import Conversation, Message
from runs.trainer.data.tokenizer import Encoded, Tokenizer
from runs.trainer.errors import DataError, ManifestProblem
from runs.trainer.evaluation.generate import STEPS, Generator, Output, most_rows
from runs.trainer.evaluation.items import Question
from runs.trainer.evaluation.record import LENGTH, PROMPT_TOO_LONG, STOP, Answer

CACHE_BYTES = 2**29  # of keys and values
MOST_ROWS = 64
_STOP_TOKENS = STEPS + 80  # where a stop text is looked for: what is new, and what it may begin in


@dataclass(frozen=True)
class Prompt:
    """A question in tokens. ``fits``: there is room for an output."""

    question: Question
    ids: list[int]
    fits: bool


def most_prompt_tokens(evaluation: dict[str, Any], architecture: Architecture) -> int:
    """Return how many tokens a prompt has at most.

    Raises:
        ManifestProblem: the model has no position for one.
    """
    room = architecture.positions
    if evaluation["method"] == "generate":
        room -= evaluation["max_tokens"]
    if room < 1:
        raise ManifestProblem(
            f"max_tokens {evaluation['max_tokens']} leaves no room for a prompt: the model has"
            f" {architecture.positions:,} positions; lower max_tokens"
        )
    return min(evaluation["max_prompt_tokens"] or room, room)


def encode_prompts(questions: list[Question], tokenizer: Tokenizer, *, most: int) -> list[Prompt]:
    """Return the prompts of the questions.

    Args:
        most: tokens; a longer prompt does not fit.

    Raises:
        DataError: a question cannot be written by the chat template, or none of them fits.
    """
    prompts = []
    for question in questions:
        with _named(question):
            ids = tokenizer.encode_prompt(
                question.messages, tools=question.tools, answer=question.answer
            )
        prompts.append(Prompt(question, ids, 0 < len(ids) <= most))
    if not any(prompt.fits for prompt in prompts):
        shortest = min(len(prompt.ids) for prompt in prompts)
        raise DataError(
            f"all {len(prompts):,} prompts are longer than {most:,} tokens (the shortest has"
            f" {shortest:,}); raise max_prompt_tokens, lower max_tokens, or use another set"
        )
    return prompts


def encode_answer(question: Question, answer: Message, tokenizer: Tokenizer) -> Encoded:
    """Return the question with an answer, encoded as a training does it. Raise DataError."""
    messages = [*question.messages, answer]
    with _named(question):
        [rows] = tokenizer.encode([Conversation(messages, (len(messages) - 1,), question.tools)])
    return rows[-1]


@contextlib.contextmanager
def _named(question: Question) -> Iterator[None]:
    """Name the question in a DataError."""
    try:
        yield
    except DataError as error:
        raise DataError(f"example {question.id}: {error}") from error


class StopTexts:
    """The texts that end an output."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer):
        self._texts, self._tokenizer = tuple(texts), tokenizer

    def are_in(self, tokens: list[int]) -> bool:
        """Return whether one of them is in what was generated last."""
        text = self._tokenizer.decode(tokens[-_STOP_TOKENS:])
        return any(stop in text for stop in self._texts)

    def cut(self, text: str) -> str:
        """Return what stands before the first of them."""
        return text[: min((text.find(stop) for stop in self._texts if stop in text), default=None)]

    def count(self, tokens: list[int]) -> int:
        """Return how many of the tokens it takes until one of them is complete."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high) // 2
            text = self._tokenizer.decode(tokens[:middle])
            if any(stop in text for stop in self._texts):
                high = middle
            else:
                low = middle + 1
        return low


class Answers:
    """Generates the answers of one model."""

    def __init__(
        self,
        evaluation: dict[str, Any],
        prompts: list[Prompt],
        *,
        tokenizer: Tokenizer,
        architecture: Architecture,
        itemsize: int,
        characters: int,
    ):
        """Prepare the answers. ``itemsize``: bytes of a number of the weights. ``characters``: more
        of an output are cut off."""
        self._settings = evaluation
        self._tokenizer = tokenizer
        self._characters = characters
        self._stop = StopTexts(evaluation["stop"] or (), tokenizer)
        longest = max(len(prompt.ids) for prompt in prompts if prompt.fits)
        count = sum(prompt.fits for prompt in prompts)
        rows = most_rows(
            architecture,
            length=longest + evaluation["max_tokens"],
            itemsize=itemsize,
            memory=CACHE_BYTES,
        )
        self._generator = Generator(
            architecture,
            stop_ids=tokenizer.stop_ids,
            rows=max(1, min(MOST_ROWS, rows, count * evaluation["samples"])),
            prompt_length=longest,
            max_tokens=evaluation["max_tokens"],
        )

    @property
    def rows(self) -> int:
        return self._generator.rows

    def generate(
        self,
        weights: Any,
        prompts: dict[int, Prompt],
        *,
        on_answer: Callable[[int, int, Answer], None],
        check_stop: Callable[[], None],
        max_tokens: int | None = None,
    ) -> None:
        """Generate for the prompts, by their places in the set. ``on_answer`` gets the place, the
        number of the sample and each answer, without scores, as soon as it is there."""
        places = list(prompts)
        for place in places:
            if not prompts[place].fits:
                for sample in range(self._settings["samples"]):
                    on_answer(place, sample, Answer("", 0, PROMPT_TOO_LONG))
        fitting = [place for place in places if prompts[place].fits]
        self._generator.generate(
            weights,
            [prompts[place].ids for place in fitting],
            temperature=self._settings["temperature"],
            top_p=self._settings["top_p"],
            samples=self._settings["samples"],
            seed=self._settings["seed"],
            numbers=fitting,
            max_tokens=max_tokens,
            has_ended=self._stop.are_in if self._settings["stop"] else None,
            on_finished=lambda output: on_answer(
                fitting[output.prompt], output.sample, self._answer(output)
            ),
            check_stop=check_stop,
        )

    def _answer(self, output: Output) -> Answer:
        tokens = output.tokens
        count, reason = len(tokens), output.finish_reason
        if tokens and tokens[-1] in self._tokenizer.stop_ids:
            tokens = tokens[:-1]
        text = self._tokenizer.decode(tokens)
        cut = self._stop.cut(text)
        if len(cut) < len(text):
            text, reason, count = cut, STOP, self._stop.count(tokens)
        answer = Answer(
            text[: self._characters], count, STOP if reason == STOP else LENGTH, output.seconds
        )
        if len(text) > self._characters:
            answer.more["cut"] = True
        return answer


def measured(prompts: list[Prompt]) -> dict[str, int]:
    """Return the numbers that the plan of an evaluation has of its prompts."""
    return {
        "prompt_tokens": sum(len(prompt.ids) for prompt in prompts),
        "longest_prompt": max(len(prompt.ids) for prompt in prompts),
        "prompt_too_long": sum(not prompt.fits for prompt in prompts),
    }
