"""The registry, and the loop beside an objective that is not supervised fine-tuning."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runs.spec.kinds import KINDS
from runs.trainer.commands.prepare import prepare
from runs.trainer.commands.train import train
from runs.trainer.data.inputs import open_manifest
from runs.trainer.errors import ManifestProblem
from runs.trainer.loop.devices import make_mesh
from runs.trainer.loop.stop import StopWatch
from runs.trainer.modeling import forward_hidden, project
from runs.trainer.objectives import OBJECTIVES, objective_for
from runs.trainer.objectives.loss import model_inputs
from runs.trainer.objectives.sft import SupervisedFineTuning
from runs.trainer.tests.helpers import Run, arithmetic

ROOT = Path(__file__).resolve().parents[4]


def test_each_kind_of_training_has_an_objective():
    assert OBJECTIVES.keys() >= KINDS.keys()


def test_the_manifests_kind_names_the_objective():
    objective = objective_for({"kind": "sft", "training": {"seed": 7}})
    assert isinstance(objective, SupervisedFineTuning)
    assert objective.training == {"seed": 7}


def test_a_manifest_without_a_kind_is_of_supervised_fine_tuning():
    assert isinstance(objective_for({"training": {}}), SupervisedFineTuning)


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ManifestProblem, match="kind: 'soup' is not one of sft"):
        objective_for({"kind": "soup", "training": {}})


def test_the_registry_needs_no_jax():
    """``tunix validate`` names a bad manifest or dataset before it loads JAX."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import runs.trainer.objectives;"
        " print('jax' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"


def row_log_probs(module, batch):
    """Log-probability of each row's learnt tokens, ``[B]``, the plain way."""
    inputs = model_inputs(batch.tokens, batch.segments, batch.answer)
    hidden = forward_hidden(module, inputs["tokens"], inputs["positions"], inputs["attention_mask"])
    logits = jax.nn.log_softmax(project(module, hidden).astype(jnp.float32))
    picked = jnp.take_along_axis(logits, inputs["labels"][..., None], axis=-1)[..., 0]
    return (picked * inputs["weights"]).sum(axis=-1)


class BeyondTheReference(SupervisedFineTuning):
    """Make each answer likelier than the untrained model makes it, as preference learning does:
    -log sigmoid of the difference, mean over rows. Its batches carry what the untrained model gave,
    it counts rows instead of tokens, and it has a metric beside its loss."""

    kind = "beyond"
    method = "going beyond a reference"
    denominator = "rows"
    reported = ("loss", "gain")

    def batch_source(self, prepared):
        return WithReference(
            super().batch_source(prepared), jax.jit(row_log_probs), prepared.model.module
        )

    def loss(self, module, batch, *, train_head):
        gain = row_log_probs(module, batch["rows"]) - batch["reference"]
        real = batch["rows"].segments[:, 0] > 0
        losses = -jax.nn.log_sigmoid(gain)
        return jnp.where(real, losses, 0).sum(), {
            "rows": real.sum().astype(jnp.float32),
            "gain": jnp.where(real, gain, 0).sum(),
        }

    def held_out_metrics(self, means):
        return {f"eval_{name}": value for name, value in means.items()}


class WithReference:
    """The batches of ``source``, with a dictionary as batch. All references are computed before the
    first step: later the model is another one."""

    def __init__(self, source, log_probs, module):
        self._source = source
        self._held_out = [self._add(host, log_probs, module) for host in source.held_out()]
        batches = source.train(start=0, stop=12)
        self._train = [self._add(host, log_probs, module) for host in batches]
        batches.close()

    def _add(self, host, log_probs, module):
        micro_batches = range(len(host.batch.tokens))
        reference = [
            np.asarray(log_probs(module, jax.tree.map(lambda x, i=i: x[i], host.batch)))
            for i in micro_batches
        ]
        batch = {"rows": host.batch, "reference": np.stack(reference)}
        return type(host)(batch, host.step, host.tokens, host.pieces)

    def train(self, *, start, stop):
        return Given(self._train[start:stop])

    def held_out(self):
        return iter(self._held_out)


@dataclass
class Given:
    batches: list
    closed: bool = False

    def __iter__(self):
        return iter(self.batches)

    def close(self):
        self.closed = True


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, BeyondTheReference.kind, BeyondTheReference)
        yield


@pytest.fixture(scope="module")
def train_beyond(tmp_path_factory, llama):
    """``train_beyond(name, **settings)`` trains and returns the ``Run``."""
    root = tmp_path_factory.mktemp("beyond")

    def run(name, *, resume_from=None, **training):
        made = Run.write(
            root / name,
            examples=arithmetic(32, held_out=8),
            model=llama,
            resume_from=resume_from,
            training={"lr_schedule": "constant", "packing": True, **training},
        )
        manifest, folder = open_manifest(made.config)
        mesh = make_mesh(data_parallel=None, fsdp_parallel=None)
        with mesh:
            prepared = prepare({**manifest, "kind": "beyond"}, folder, mesh, lambda: None)
            train(prepared, StopWatch(folder))
        return made

    return run


@pytest.fixture(scope="module")
def trained(train_beyond):
    """One row a step, of several answers."""
    return train_beyond("trained", num_epochs=1, batch_size=1)


def steps(run):
    return [entry["values"] for entry in run.metrics() if "loss" in entry.get("values", {})]


def test_the_loop_trains_an_objective_with_batches_and_metrics_of_its_own(trained):
    lines = steps(trained)
    assert len(lines) == 3
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)  # no step taken: no difference
    assert lines[0]["gain"] == pytest.approx(0, abs=1e-4)
    assert list(lines[0])[:2] == ["loss", "gain"]
    assert lines[-1]["gain"] > 1
    held_out = [e["values"] for e in trained.metrics() if "eval_loss" in e.get("values", {})]
    assert [list(values) for values in held_out] == [["eval_loss", "eval_gain"]] * 2

    result = trained.result()
    assert list(result)[:8] == [
        "loss_first", "loss_last", "eval_loss_before", "eval_loss_after",
        "gain_first", "gain_last", "eval_gain_before", "eval_gain_after",
    ]  # fmt: skip
    assert [result["gain_first"], result["gain_last"]] == [
        lines[0]["gain"],
        lines[-1]["gain"],
    ]
    assert [result["eval_gain_before"], result["eval_gain_after"]] == [
        values["eval_gain"] for values in held_out
    ]
    card = (trained.folder / "model" / "README.md").read_text()
    assert "- beyond\n" in card
    assert "Trained by going beyond a reference with google-tunix" in card


def test_accumulation_divides_by_what_the_objective_counts(train_beyond):
    """Three rows: as one batch, and as micro-batches of two of which the last is not full."""
    whole = train_beyond("whole", num_epochs=1, batch_size=3)
    parts = train_beyond("parts", num_epochs=1, batch_size=2, gradient_accumulation_steps=2)

    [one], [two] = steps(whole), steps(parts)
    for name in ("loss", "gain", "grad_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-4)


def test_what_an_objective_reports_is_carried_over_a_resume(train_beyond, trained, capsys):
    longer = train_beyond(
        "longer", num_epochs=2, batch_size=1, resume_from="../trained/checkpoints"
    )

    result, before = longer.result(), trained.result()
    assert result["resumed_from_step"] == 3
    for name in ("loss_first", "gain_first", "eval_loss_before", "eval_gain_before"):
        assert result[name] == before[name]
    assert result["gain_last"] > before["gain_last"]
    out = capsys.readouterr().out
    assert f"Gain {result['gain_first']:.4g} → {result['gain_last']:.4g}." in out
    assert "Held-out gain" in out
