"""Supervised fine-tuning: learn the answers of conversations, token by token."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.trainer.data.dataset import Example
from runs.trainer.data.inputs import open_tokenizer
from runs.trainer.data.plan import DataPlan, StepRows, plan_rows
from runs.trainer.data.tokenizer import Encoded, Tokenizer
from runs.trainer.data.tokens import TokenisedData, tokenised_data
from runs.trainer.objectives.objective import BatchSource, Objective, Prepared

if TYPE_CHECKING:
    import jax
    from flax import nnx

# Part of the cache's key and of the identity of checkpoints. Change it whenever the same example
# could become other tokens or another mask, or when the cached files change their layout.
ENCODING = "3"


class SupervisedFineTuning(Objective):
    """Next-token cross entropy on the answers; every learnt token has the same weight."""

    kind = "sft"
    method = "supervised fine-tuning"
    denominator = "answer_tokens"
    reported = ("loss",)

    def tokenise(
        self,
        manifest: dict[str, Any],
        folder: Path,
        tokenizer_folder: Path | None,
        check_stop: Callable[[], None],
    ) -> tuple[Tokenizer, TokenisedData]:
        """Tokenise conversations; the cache is below ``TUNIXRT_CACHE_DIR``, else in ``folder``."""
        tokenizer = open_tokenizer(tokenizer_folder, prompt_style=self.training["prompt_style"])
        data = tokenised_data(
            folder / manifest["dataset"]["path"],
            tokenizer=tokenizer,
            encode=encode,
            encoding=ENCODING,
            max_length=self.training["max_seq_length"],
            too_long=self.training["too_long"],
            cache_root=Path(os.environ.get("TUNIXRT_CACHE_DIR") or folder / "cache"),
            check_stop=check_stop,
        )
        return tokenizer, data

    def plan(self, data: TokenisedData) -> tuple[DataPlan, list[StepRows]]:
        return plan_rows(data, self.training, packing=self.training["packing"])

    def batch_source(self, prepared: Prepared) -> BatchSource:
        from runs.trainer.data.batches import planned_batches  # noqa: PLC0415 - imports JAX

        return planned_batches(
            prepared.data, prepared.plan, prepared.held_out_rows, shards=prepared.mesh.size
        )

    def loss(
        self, module: nnx.Module, batch: Any, *, train_head: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the negative log likelihood of the learnt tokens, summed, and their number.

        ``batch`` is a ``Batch`` of arrays ``[B, L]``.
        """
        from runs.trainer.objectives.loss import answer_loss, model_inputs  # noqa: PLC0415 - imports JAX

        inputs = model_inputs(batch.tokens, batch.segments, batch.answer)
        total, count = answer_loss(module, **inputs, train_head=train_head)
        return total, {"answer_tokens": count}

    def held_out_metrics(self, means: dict[str, float]) -> dict[str, float]:
        loss = means["loss"]
        return {"eval_loss": loss, "eval_perplexity": perplexity(loss)}


def encode(tokenizer: Tokenizer, examples: list[Example]) -> list[list[Encoded]]:
    """Return each conversation as rows of token ids, of which the assistant's answers are learnt.

    Raises:
        DataError: a conversation cannot be written with the tokenizer's chat template.
    """
    return tokenizer.encode([example.conversation for example in examples])


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite where that is beyond the numbers."""
    return math.exp(loss) if loss < 700 else math.inf
