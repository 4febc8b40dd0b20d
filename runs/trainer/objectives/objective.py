"""The interface between the training loop and what is trained.

The loop (``runs.trainer.loop``) owns steps, gradients, the optimizer, checkpoints, stop requests,
resuming and devices. It knows an objective only by ``Objective`` and ``BatchSource``.

What belongs where, by the kinds of training there are or will be:

* **Examples as tokens** (conversations, pairs, prompts): ``Objective.tokenise``. Its result is
  always ``TokenisedData``: sequences of token ids with a mask of the tokens that are learnt.
* **Which sequences make up a step** (packing or not): ``Objective.plan``.
* **Arrays of a step**: the ``BatchSource``. What has to be computed with the untrained model and is
  the same at every step, such as the log-probabilities of a reference model, is computed when
  ``Objective.batch_source`` is called: the model is loaded, and no checkpoint is restored yet. What
  depends on the current weights, such as rollouts, is computed in ``BatchSource.train``: the loop
  asks for each batch at a step boundary, in the main thread.
* **The loss, and numbers computed together with it**: ``Objective.loss``. Every sum it returns
  becomes a metric of the step.
* **Held-out metrics**: ``Objective.held_out_metrics``. **Keys of result.json**:
  ``Objective.reported``.

Solving held-out problems (exact match) measures a model whatever it was trained on, so it belongs
to no objective (``runs.trainer.evaluation``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from runs.trainer.data.dataset import examples_at
from runs.trainer.data.plan import DataPlan, StepRows
from runs.trainer.data.tokenizer import Tokenizer
from runs.trainer.data.tokens import TokenisedData

if TYPE_CHECKING:  # they import JAX
    import jax
    from flax import nnx

    from runs.trainer.data.batches import HostBatch
    from runs.trainer.modeling.loading import LoadedModel


class TrainBatches(Protocol):
    """The batches of consecutive steps."""

    def __iter__(self) -> Iterator[HostBatch]: ...

    def close(self) -> None:
        """Stop building batches. Called once, also when not all batches were taken."""


class BatchSource(Protocol):
    """Makes the batches of one training.

    Every array of a batch is ``[A, B, …]``: A micro-batches of B rows. With several processes, each
    one makes its own rows.
    """

    def train(self, *, start: int, stop: int) -> TrainBatches:
        """Return the batches of the steps ``start`` to ``stop`` - 1, counted from 0. They must be a
        function of data, settings, seed and step (and, for rollouts, of the weights) alone, so that
        a resumed training is the uninterrupted one."""

    def held_out(self) -> Iterator[HostBatch]:
        """Yield the held-out part in a fixed order, with A = 1."""


@dataclass
class Prepared:
    """A training before its first step. Paths in the manifest are relative to ``folder``.

    ``total`` is the last optimizer step; ``held_out_rows`` are the batches of the held-out part,
    empty where there is none.
    """

    manifest: dict[str, Any]
    folder: Path
    objective: Objective
    mesh: jax.sharding.Mesh
    dtype: Any
    model: LoadedModel
    tokenizer: Tokenizer
    data: TokenisedData
    plan: DataPlan
    held_out_rows: list[StepRows]
    total: int
    source: BatchSource = field(init=False)  # made from all the others

    @property
    def training(self) -> dict[str, Any]:
        return self.manifest["training"]

    @property
    def start(self) -> int:
        """The step at which the schedule begins: 0, or for an extension that of the checkpoint it
        extends."""
        return self.manifest["extend_from_step"] or 0

    @property
    def dataset_path(self) -> Path:
        return self.folder / self.manifest["dataset"]["path"]

    def example_names(self, pieces: np.ndarray) -> list[str]:
        """Return the ids of the examples that ``pieces`` (indices into the tokenised data) belong
        to."""
        offsets = list(dict.fromkeys(int(offset) for offset in self.data.pieces["offset"][pieces]))
        return [example.id for example in examples_at(self.dataset_path, offsets)]


class Objective(ABC):
    """One kind of training, with the settings of one training.

    ``training`` is the manifest's section: the parameters of the kind.
    """

    kind: ClassVar[str]
    """Its name in a manifest, and a tag of the exported model."""

    method: ClassVar[str]
    """What the exported model's card calls it."""

    denominator: ClassVar[str]
    """The sum returned by ``loss`` that the loss and all other sums are divided by."""

    reported: ClassVar[tuple[str, ...]]
    """The metrics that ``result.json`` reports: ``<name>_first`` and ``<name>_last`` of the
    training steps, ``eval_<name>_before`` and ``eval_<name>_after`` of the held-out part. ``loss``
    or a sum returned by ``loss``."""

    def __init__(self, training: dict[str, Any]):
        self.training = training

    @abstractmethod
    def tokenise(
        self,
        manifest: dict[str, Any],
        folder: Path,
        tokenizer_folder: Path | None,
        check_stop: Callable[[], None],
    ) -> tuple[Tokenizer, TokenisedData]:
        """Tokenise the manifest's dataset, or find it in the cache.

        Args:
            folder: the manifest's folder.
            tokenizer_folder: a Hugging Face folder; None reads bytes.
            check_stop: raises Interrupted when a stop was requested; call it now and then.

        Raises:
            ModelError: the tokenizer cannot be used.
            DataError: the dataset cannot be used, or nothing in it can be learnt from.
        """

    @abstractmethod
    def plan(self, data: TokenisedData) -> tuple[DataPlan, list[StepRows]]:
        """Return the order of the training part, and the batches of the held-out part."""

    @abstractmethod
    def batch_source(self, prepared: Prepared) -> BatchSource:
        """Return what makes the batches. ``prepared`` is complete but for ``source``; its model has
        the weights that the training starts from."""

    @abstractmethod
    def loss(
        self, module: nnx.Module, batch: Any, *, train_head: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the loss of one micro-batch, summed, and the sums that belong to it.

        Traced by JAX. Gradients are taken of the first value. The sums of all micro-batches and
        devices are added up, then divided by the sum named ``denominator``: what is learnt does not
        depend on how a step is cut into micro-batches.

        Args:
            batch: the arrays ``[B, …]`` of a ``HostBatch.batch``.
            train_head: whether the projection to the vocabulary is trained (false for LoRA).

        Returns:
            A float32 scalar, and float32 scalars by name, ``denominator`` among them.
        """

    @abstractmethod
    def held_out_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Return the metrics of an evaluation by their names in ``metrics.jsonl``.

        ``means`` has ``loss`` and every sum but the denominator, divided by it. ``eval_loss`` comes
        first: a checkpoint counts as better when it is lower.
        """
