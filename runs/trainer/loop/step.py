"""google-tunix's trainer with the parts replaced that are not right, or not fast, for supervised
fine-tuning.

Used as it is: the training loop, the optimizer on ``nnx`` modules (LoRA weights only, where there
are any), the compiled and cached step with a donated optimizer state, placing batches on the mesh,
holding the number of steps in flight.

Replaced, each for a reason:

* **gradient accumulation** is inside the compiled step. Upstream wraps the optimizer in
  ``optax.MultiSteps``, which gives every micro-batch the same weight; batches with few answer
  tokens then count too much. Here losses and gradients are summed and divided once by the number of
  learnt tokens, which equals one big batch.
* **the held-out loss** is weighted by tokens. Upstream takes the mean of batch means.
* **step boundaries** belong to ``DataHooks``: evaluation, checkpoints and stop requests happen
  between steps (``loop.py``). Upstream skips batches one by one on resume and saves by its own
  clock.
* **metrics** go to ``metrics.jsonl``. Upstream keeps every value in a list for the whole training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.interpreters import pxla
from jax.sharding import NamedSharding, PartitionSpec
from tunix.sft import hooks, peft_trainer

from runs.trainer.data.batches import Batch, HostBatch
from runs.trainer.loop.devices import BATCH_AXES
from runs.trainer.loop.optimizer import stack_layers
from runs.trainer.objectives.loss import answer_loss, model_inputs

_BATCH_SPEC = (None, BATCH_AXES)  # of arrays [A, B, L]


class SftTrainer(peft_trainer.PeftTrainer):
    """Trains on ``Batch`` (arrays ``[A, B, L]``); each step ends with a call of ``on_step`` with
    its outcome.

    The outcome is a dictionary of device scalars: ``loss`` (mean over learnt tokens),
    ``answer_tokens``, ``grad_norm`` (before clipping). Reading one waits for the step.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: optax.GradientTransformation,
        *,
        on_step: Callable[[dict[str, jax.Array]], None],
    ):
        config = peft_trainer.TrainingConfig(
            eval_every_n_steps=1,  # never looked at: train() gets no eval_ds
            data_sharding_axis=_BATCH_SPEC,  # type: ignore[arg-type]
        )
        super().__init__(model, optimizer, config)
        # Our checkpoints and our end: nothing is skipped, saved or closed behind our back.
        self.is_managed_externally = True
        self._on_step = on_step
        self.with_gen_model_input_fn(_unpack)
        self.with_loss_fn(partial(answer_loss, train_head=not self._lora_enabled), has_aux=True)

    @property
    def trained(self) -> type:
        """The kind of variable that is trained."""
        return nnx.LoRAParam if self._lora_enabled else nnx.Param

    def start_at(self, step: int) -> None:
        """Continue counting after a restored checkpoint."""
        self._train_steps = self._iter_steps = step

    def _prepare_inputs(self, input_data: Batch) -> Batch:
        """Place a batch on the mesh, rows over its batch axes. Each process brings its own rows.

        Upstream's placement looks whether the rows *of one process* divide evenly over *all*
        devices, and takes the rows of different processes for copies of each other when they do
        not. It leaves alone what is placed already.
        """
        sharding = NamedSharding(
            pxla.thread_resources.env.physical_mesh, PartitionSpec(*_BATCH_SPEC)
        )
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, x), input_data
        )

    def _train_step(
        self, model: nnx.Module, optimizer: nnx.Optimizer, inputs: Batch
    ) -> tuple[jax.Array, Any, jax.Array]:
        graph, *states = nnx.split(model, self.trained, ...)
        trained, rest = states

        def sums(trained: Any, micro: Batch) -> tuple[jax.Array, jax.Array]:
            return self.loss_fn(nnx.merge(graph, trained, rest), **self.gen_model_input_fn(micro))

        # Divided before it is taken apart by layers: XLA would compile a division for each of them.
        def mean(trained: Any, micro: Batch) -> tuple[jax.Array, jax.Array]:
            total, count = sums(trained, micro)
            count = jnp.maximum(count, 1.0)
            return total / count, count

        if inputs.tokens.shape[0] == 1:
            (loss, count), gradients = jax.value_and_grad(mean, has_aux=True)(
                trained, jax.tree.map(lambda x: x[0], inputs)
            )
        else:
            gradient = jax.value_and_grad(sums, has_aux=True)

            def add(carry: Any, micro: Batch) -> tuple[Any, None]:
                (total, count), gradients = gradient(trained, micro)
                return jax.tree.map(jnp.add, carry, (total, count, gradients)), None

            zero = jax.tree.map(jnp.zeros_like, trained)
            (total, count, gradients), _ = jax.lax.scan(
                add, (jnp.float32(0), jnp.float32(0), zero), inputs
            )
            count = jnp.maximum(count, 1.0)
            loss = total / count
            gradients = jax.tree.map(lambda g: g / count.astype(g.dtype), gradients)
        norm = optax.tree.norm(stack_layers(gradients) if self._lora_enabled else gradients)
        optimizer.update(model, gradients)
        return loss, {"loss": loss, "answer_tokens": count, "grad_norm": norm}, norm

    def _eval_step(self, model: nnx.Module, inputs: Batch) -> Any:
        return self.eval_loss_fn(
            model, **self.gen_model_input_fn(jax.tree.map(lambda x: x[0], inputs))
        )

    def _post_process_train_step(self, aux: Any) -> None:
        self._on_step(aux)

    def _write_train_metrics(self) -> None:
        self._buffered_train_metrics = None

    def first_step(self, batch: Batch) -> dict[str, jax.Array]:
        """One step on its own: its outcome."""
        step, _ = self.jit_train_and_eval_step(cache_nnx_graph=True)
        return step(self._prepare_inputs(batch))[1]

    def held_out_loss(self, batches: Iterable[HostBatch], check_stop: Callable[[], None]) -> float:
        """Mean negative log likelihood of the learnt tokens of all batches."""
        _, step = self.jit_train_and_eval_step(cache_nnx_graph=True)
        total = count = 0.0
        for host in batches:
            check_stop()
            part, number = step(self._prepare_inputs(host.batch))
            total += float(part)
            count += float(number)
        return total / max(count, 1.0)


def _unpack(batch: Batch) -> dict[str, jax.Array]:
    return model_inputs(batch.tokens, batch.segments, batch.answer)


class StepBoundary(hooks.DataHooks):
    """Hands the loop its next batch; None ends the training. ``next_batch`` may do as it likes
    between two steps."""

    def __init__(self, next_batch: Callable[[], Batch | None]):
        self._next_batch = next_batch

    def load_next_train_batch(self, train_ctx: Any) -> Batch | None:
        return self._next_batch()

    def load_next_eval_batch(self, train_ctx: Any) -> None:
        return None
