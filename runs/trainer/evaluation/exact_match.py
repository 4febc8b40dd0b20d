"""Greedy exact match: held-out problems solved by google-tunix's sampler, in batches.

Solved: the last non-empty line of the output equals the last non-empty line of ``final_answer``,
both stripped. What is asked for is the last answer that is learnt, after the same text as in
training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler

from runs.trainer.data.conversation import Conversation
from runs.trainer.data.dataset import examples_at, last_line
from runs.trainer.data.tokenizer import Tokenizer

CACHE_BYTES = 2**28  # key/value cache of one batch
MOST_ROWS = 64
SAMPLES = 5  # outputs that go into result.json


class _Ids:
    """google-tunix's sampler takes strings; ours are lists of ids already.

    Padding is -1, an id no prompt has: many tokenizers pad with the token that also ends a turn,
    which the sampler would then hide from attention wherever it occurs in a prompt.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def encode(self, text: Any) -> list[int]:
        return list(text)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return self._tokenizer.stop_ids[0]

    def pad_id(self) -> int:
        return -1


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
        model_config: Any,
        max_prompt: int,
        max_tokens: int,
    ):
        """``offsets``: byte offsets of the candidates' lines. Prompts of more than ``max_prompt``
        tokens count as not solved."""
        self._tokenizer = tokenizer
        self._examples = examples_at(dataset, [int(offset) for offset in offsets[:count]])
        self._prompts = [_prompt(example.conversation, tokenizer) for example in self._examples]
        self._fits = [i for i, prompt in enumerate(self._prompts) if len(prompt) <= max_prompt]
        longest = max((len(self._prompts[i]) for i in self._fits), default=1)
        # One prompt length, one batch size: one compilation.
        self._prompt_length = -(-longest // 16) * 16
        self._max_tokens = max_tokens
        self._config = CacheConfig(
            cache_size=self._prompt_length + max_tokens,
            num_layers=model_config.num_layers,
            num_kv_heads=model_config.num_kv_heads,
            head_dim=model_config.head_dim,
        )
        per_row = (
            2
            * 4
            * self._config.cache_size
            * self._config.num_layers
            * self._config.num_kv_heads
            * self._config.head_dim
        )
        self._rows = int(max(1, min(MOST_ROWS, CACHE_BYTES // per_row, len(self._fits) or 1)))
        self._sampler: tuple[nnx.Module, Sampler] | None = None

    def __len__(self) -> int:
        return len(self._examples)

    def solve(self, module: nnx.Module, check_stop: Callable[[], None]) -> tuple[float, list[str]]:
        """Return the share of the problems solved, 0 to 1, and the first few outputs.

        ``check_stop`` is called before each batch and may raise.
        """
        outputs = [""] * len(self._examples)
        sampler = self._make_sampler(module)
        # Problems of like length together: a batch is done when its last row is.
        order = sorted(self._fits, key=lambda i: (len(self._prompts[i]), i))
        for start in range(0, len(order), self._rows):
            check_stop()
            rows = order[start : start + self._rows]
            filled = (rows * self._rows)[: self._rows]
            texts = self._generate(sampler, [self._prompts[i] for i in filled])
            for i, text in zip(rows, texts, strict=False):
                outputs[i] = text
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

    def _make_sampler(self, module: nnx.Module) -> Sampler:
        """Return the module's sampler, which keeps its compiled functions from one evaluation to
        the next. It refers to the module's variables, so it follows their values and holds no
        weights of its own."""
        if self._sampler is None or self._sampler[0] is not module:
            self._sampler = module, Sampler(module, _Ids(self._tokenizer), self._config)
        return self._sampler[1]

    def _generate(self, sampler: Sampler, prompts: list[list[int]]) -> list[str]:
        with warnings.catch_warnings():
            # Without logits buffers some donated arrays find no use; harmless, but said at every
            # compilation.
            warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
            output = sampler(
                [tuple(prompt) for prompt in prompts],  # type: ignore[misc]
                max_generation_steps=self._max_tokens,
                max_prompt_length=self._prompt_length,
                eos_tokens=list(self._tokenizer.stop_ids),
            )
        return list(output.text)


def _prompt(conversation: Conversation, tokenizer: Tokenizer) -> list[int]:
    last = conversation.last_answer
    messages = conversation.messages
    return tokenizer.encode_prompt(messages[:last], tools=conversation.tools, answer=messages[last])
