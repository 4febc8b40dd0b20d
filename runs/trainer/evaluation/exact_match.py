"""Greedy exact match: held-out problems solved by the model (``generate.py``).

Solved: the last non-empty line of the output equals the last non-empty line of ``final_answer``,
both stripped. What is asked for is the last answer that is learnt, after the same text as in
training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from runs.spec.architectures import Architecture
from runs.trainer.data.conversation import Conversation
from runs.trainer.data.dataset import examples_at, last_line
from runs.trainer.data.tokenizer import Tokenizer
from runs.trainer.evaluation.generate import STOP, Generator, Output, most_rows
from runs.trainer.modeling.decoding import decoding_weights

CACHE_BYTES = 2**28  # of keys and values
MOST_ROWS = 64
SAMPLES = 5  # outputs that go into result.json


def decoding_rows(architecture: Architecture, *, problems: int, length: int, itemsize: int) -> int:
    """Return how many problems are solved at a time, of ``length`` tokens with their answers."""
    rows = most_rows(architecture, length=length, itemsize=itemsize, memory=CACHE_BYTES)
    return max(1, min(MOST_ROWS, problems, rows))


class ExactMatch:
    """The first ``count`` held-out problems with a final answer, ready to be solved again and
    again."""

    def __init__(
        self,
        dataset: Path,
        offsets: np.ndarray,
        *,
        count: int,
        tokenizer: Tokenizer,
        architecture: Architecture,
        dtype: Any,
        max_prompt: int,
        max_tokens: int,
    ):
        """Prepare the measurement. ``offsets``: byte offsets of the candidates' lines. Prompts of
        more than ``max_prompt`` tokens are treated as not solved. ``dtype`` is that of the
        weights."""
        self._tokenizer = tokenizer
        self._examples = examples_at(dataset, [int(offset) for offset in offsets[:count]])
        self._prompts = [_prompt(example.conversation, tokenizer) for example in self._examples]
        longest = max((len(p) for p in self._prompts if len(p) <= max_prompt), default=1)
        self._generator = Generator(
            architecture,
            stop_ids=tokenizer.stop_ids,
            rows=decoding_rows(
                architecture,
                problems=len(self._prompts),
                length=longest + max_tokens,
                itemsize=np.dtype(dtype).itemsize,
            ),
            prompt_length=max_prompt,
            max_tokens=max_tokens,
        )

    def __len__(self) -> int:
        return len(self._examples)

    def solve(self, module: nnx.Module, check_stop: Callable[[], None]) -> tuple[float, list[str]]:
        """Return the share of the problems solved, 0 to 1, and the first few outputs.

        ``check_stop`` is called every few tokens and may raise.
        """
        weights = decoding_weights(module, self._generator.architecture)
        answers = self._generator.generate(weights, self._prompts, check_stop=check_stop)
        outputs = [self._text(answer) for [answer] in answers]
        solved = [
            last_line(output) == last_line(example.final_answer or "")
            for output, example in zip(outputs, self._examples, strict=True)
        ]
        return float(np.mean(solved)), outputs[:SAMPLES]

    def samples(self) -> list[dict[str, str]]:
        """Return prompt and expected answer of the problems whose outputs ``solve`` returns."""
        samples = []
        for example in self._examples[:SAMPLES]:
            conversation = example.conversation
            last = conversation.last_answer
            samples.append(
                {
                    "prompt": conversation.messages[last - 1]["content"] if last else "",
                    "expected": conversation.messages[last]["content"],
                }
            )
        return samples

    def _text(self, output: Output) -> str:
        tokens = output.tokens[:-1] if output.finish_reason == STOP else output.tokens
        return self._tokenizer.decode(tokens)


def _prompt(conversation: Conversation, tokenizer: Tokenizer) -> list[int]:
    last = conversation.last_answer
    messages = conversation.messages
    return tokenizer.encode_prompt(messages[:last], tools=conversation.tools, answer=messages[last])
