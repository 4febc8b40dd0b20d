"""One optimizer step, of any objective: google-tunix's trainer with the parts replaced that are not
right, or not fast, here.

Used as it is: the training loop, the optimizer on ``nnx`` modules (LoRA weights only, where there
are any), the compiled and cached step with a donated optimizer state, the limit on steps in flight.

Replaced, each for a reason:

* **Gradient accumulation** is inside the compiled step. Upstream wraps the optimizer in
  ``optax.MultiSteps``, which gives every micro-batch the same weight; batches with few answer
  tokens then count too much. Here losses and gradients are summed and divided once, by what the
  objective counts (for answers, their tokens), which equals one big batch.
* **The held-out loss** is weighted in the same way. Upstream takes the mean of batch means.
* **Step boundaries** belong to ``DataHooks``: evaluation, checkpoints and stop requests happen
  between steps (``training.py``). Upstream skips batches one by one on resume and saves by its own
  clock.
* **Metrics** go to ``metrics.jsonl``. Upstream keeps every value in a list for the whole training.

``runs/trainer/upstream.py`` lists the private names of google-tunix that this needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.interpreters import pxla
from jax.sharding import NamedSharding, PartitionSpec
from tunix.sft import hooks, peft_trainer
from tunix.sft.utils import is_lora_enabled

from runs.trainer.data.batches import HostBatch
from runs.trainer.loop.devices import BATCH_AXES
from runs.trainer.loop.optimizer import make_optimizer, stack_layers
from runs.trainer.objectives.objective import Objective, Prepared

_BATCH_SPEC = (None, BATCH_AXES)  # of arrays [A, B, …]

Outcome = dict[str, jax.Array]


class ObjectiveTrainer(peft_trainer.PeftTrainer):
    """Trains a model on an objective; calls ``on_step`` with the outcome of each step.

    The outcome is a dictionary of float32 device scalars: ``loss``, the objective's ``denominator``
    (at least 1), every other sum of the objective divided by it, and ``grad_norm`` (before
    clipping). Reading one waits for the step.

    Batches are pytrees of arrays ``[A, B, …]``: A micro-batches of B rows.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: optax.GradientTransformation,
        objective: Objective,
        *,
        on_step: Callable[[Outcome], None],
    ):
        config = peft_trainer.TrainingConfig(
            eval_every_n_steps=1,  # never looked at: train() gets no eval_ds
            data_sharding_axis=_BATCH_SPEC,  # type: ignore[arg-type]
        )
        super().__init__(model, optimizer, config)
        # Checkpoints and the end are the loop's: upstream must not skip, save or close anything.
        self.is_managed_externally = True
        self.lora = is_lora_enabled(model)
        self._objective = objective
        self._on_step = on_step

    @property
    def trained(self) -> type:
        """The kind of variable that is trained."""
        return nnx.LoRAParam if self.lora else nnx.Param

    def place(self, batch: Any) -> Any:
        """Place this process's rows of a batch on the mesh, rows over its batch axes.

        Upstream's placement checks whether the rows *of one process* divide evenly over *all*
        devices, and takes the rows of different processes for copies of each other when they do
        not. It leaves alone what is placed already.
        """
        sharding = NamedSharding(
            pxla.thread_resources.env.physical_mesh, PartitionSpec(*_BATCH_SPEC)
        )
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def create_train_step_fn(self) -> Callable[..., Any]:
        """Return the function that upstream compiles, donating its argument named ``optimizer``."""
        return self._update

    def create_eval_step_fn(self) -> Callable[..., Any]:
        return self._measure

    def _update(
        self, model: nnx.Module, optimizer: nnx.Optimizer, batch: Any
    ) -> tuple[jax.Array, Outcome, jax.Array]:
        """Update the model; return loss, outcome and gradient norm."""
        graph, *states = nnx.split(model, self.trained, ...)
        trained, rest = states
        counted = self._objective.denominator

        def sums(trained: Any, micro: Any) -> tuple[jax.Array, Outcome]:
            return self._loss(nnx.merge(graph, trained, rest), micro)

        # Divided before it is taken apart by layers: XLA would compile a division for each of them.
        def mean(trained: Any, micro: Any) -> tuple[jax.Array, Outcome]:
            total, parts = sums(trained, micro)
            return total / jnp.maximum(parts[counted], 1.0), parts

        first = jax.tree.map(lambda x: x[0], batch)
        if jax.tree.leaves(batch)[0].shape[0] == 1:
            (loss, parts), gradients = jax.value_and_grad(mean, has_aux=True)(trained, first)
            count = jnp.maximum(parts[counted], 1.0)
        else:
            gradient = jax.value_and_grad(sums, has_aux=True)

            def add(carry: Any, micro: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, carry, gradient(trained, micro)), None

            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, trained, first)
            )
            ((total, parts), gradients), _ = jax.lax.scan(add, zeros, batch)
            count = jnp.maximum(parts[counted], 1.0)
            loss = total / count
            gradients = jax.tree.map(lambda g: g / count.astype(g.dtype), gradients)
        norm = optax.tree.norm(stack_layers(gradients) if self.lora else gradients)
        optimizer.update(model, gradients)
        means = {name: part / count for name, part in parts.items() if name != counted}
        return loss, {"loss": loss, **means, counted: count, "grad_norm": norm}, norm

    def _measure(self, model: nnx.Module, batch: Any) -> tuple[jax.Array, Outcome]:
        return self._loss(model, jax.tree.map(lambda x: x[0], batch))

    def _loss(self, model: nnx.Module, micro: Any) -> tuple[jax.Array, Outcome]:
        return self._objective.loss(model, micro, train_head=not self.lora)

    def _post_process_train_step(self, aux: Outcome) -> None:
        self._on_step(aux)
        self._buffered_train_metrics = None

    def first_step(self, batch: Any) -> Outcome:
        """Run one step on its own and return its outcome."""
        step, _ = self.jit_train_and_eval_step(cache_nnx_graph=True)
        return step(self.place(batch))[1]

    def held_out_means(
        self, batches: Iterable[HostBatch], check_stop: Callable[[], None]
    ) -> dict[str, float]:
        """Return ``loss`` and the objective's other sums over all batches, divided by its
        ``denominator``. ``check_stop`` is called before each batch and may raise."""
        _, step = self.jit_train_and_eval_step(cache_nnx_graph=True)
        total = 0.0
        sums: dict[str, float] = {}
        for host in batches:
            check_stop()
            loss, parts = step(self.place(host.batch))
            total += float(loss)
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + float(part)
        count = max(sums.pop(self._objective.denominator, 0.0), 1.0)
        return {"loss": total / count, **{name: part / count for name, part in sums.items()}}


def make_trainer(prepared: Prepared, *, on_step: Callable[[Outcome], None]) -> ObjectiveTrainer:
    """Return the trainer of a prepared training, with a new optimizer."""
    return ObjectiveTrainer(
        prepared.model.module,
        make_optimizer(
            prepared.training, total=prepared.total, start=prepared.start, dtype=prepared.dtype
        ),
        prepared.objective,
        on_step=on_step,
    )


class StepBoundary(hooks.DataHooks):
    """Hands google-tunix's loop each batch when it asks for one; None ends the training.

    ``next_batch`` is called between two steps, in the main thread, and may take its time.
    """

    def __init__(self, next_batch: Callable[[], Any | None]):
        self._next_batch = next_batch

    def load_next_train_batch(self, train_ctx: ObjectiveTrainer) -> Any | None:
        batch = self._next_batch()
        return None if batch is None else train_ctx.place(batch)

    def load_next_eval_batch(self, train_ctx: ObjectiveTrainer) -> None:
        return None
