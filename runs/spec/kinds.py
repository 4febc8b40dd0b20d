"""The kinds of runs: what each may be asked, which data it reads, and what it measures.

Plain Python: API, forms, pages and the training program import it. To add a kind of training, add
it to KINDS; requests, forms, manifests and documents go by what stands there. An evaluation is a
run as well, but no training: EVALUATE is not among KINDS.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runs.spec.evaluation import PARAMETERS as EVALUATION
from runs.spec.parameters import Parameter, with_shared


class Better(StrEnum):
    """Which of two numbers is the better one."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = ""


@dataclass(frozen=True)
class Measure:
    """A number that a training reports: a metric of its steps, or a result of the whole.

    ``share``: it is a share of 1, shown as percent.
    """

    name: str
    label: str
    help: str
    better: Better = Better.NEITHER
    share: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of run. ``metrics`` are the names in ``metrics.jsonl``, ``results`` the numbers in
    ``result.json`` that pages show; both in the order in which pages show them. ``section``: of the
    manifest, with the parameters. ``command``: of the training program."""

    name: str
    label: str
    parameters: dict[str, Parameter]
    dataset_formats: tuple[str, ...]
    metrics: dict[str, Measure]
    results: dict[str, Measure]
    section: str = "training"
    command: str = "train"

    def defaults(self) -> dict[str, Any]:
        """Return every parameter with its default, in the documented order."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def foreign(self, name: str) -> str | None:
        """Return the kind that has a parameter ``name`` where this kind has none; None where no
        kind has one."""
        if name in self.parameters:
            return None
        kinds = (*KINDS.values(), EVALUATE)
        owners = [kind.name for kind in kinds if name in kind.parameters]
        return ", ".join(owners) or None


def _by_name(*measures: Measure) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


SFT = Kind(
    name="sft",
    label="Supervised fine-tuning",
    parameters=with_shared(
        Parameter("packing", bool, False, "Several examples in one row, each seeing only itself."),
        Parameter(
            "too_long",
            str,
            "drop",
            "What happens to an example longer than max_seq_length.",
            choices=("drop", "truncate", "split"),
        ),
        Parameter(
            "prompt_style",
            str,
            "conversation",
            "Where a chat template writes something else before an answer when it asks for one"
            " than in a finished conversation: what answers are learnt and measured after.",
            choices=("conversation", "generation"),
        ),
    ),
    dataset_formats=("tunix_sft",),
    metrics=_by_name(
        Measure("loss", "Loss", "Mean over the learnt tokens.", Better.LOWER),
        Measure("eval_loss", "Held-out loss", "Mean over held-out answers.", Better.LOWER),
        Measure("eval_perplexity", "Held-out perplexity", "exp(held-out loss).", Better.LOWER),
        Measure(
            "exact_match",
            "Exact match",
            "Share of held-out problems whose answer is right.",
            Better.HIGHER,
            share=True,
        ),
        Measure("learning_rate", "Learning rate", "Learning rate of the step."),
        Measure("grad_norm", "Gradient norm", "Largest norm before clipping."),
        Measure("tokens", "Tokens", "Tokens of prompts and answers since the very beginning."),
        Measure("tokens_per_second", "Tokens/s", "Of the steps since the line before."),
        Measure("memory_bytes", "Memory", "Of the first accelerator, or of the process on a CPU."),
    ),
    results=_by_name(
        Measure(
            "exact_match_before",
            "Exact match before",
            "Share of held-out problems that the model solved before the training.",
            share=True,
        ),
        Measure(
            "exact_match_after",
            "Exact match after",
            "Share of held-out problems that the trained model solves.",
            Better.HIGHER,
            share=True,
        ),
        Measure("eval_loss_before", "Held-out loss before", "Before the first step."),
        Measure("eval_loss_after", "Held-out loss after", "After the last step.", Better.LOWER),
        Measure("loss_first", "Loss first", "Of the first step."),
        Measure("loss_last", "Loss last", "Of the last step.", Better.LOWER),
        Measure("steps", "Steps", "Optimizer steps."),
        Measure("tokens", "Tokens", "Tokens of prompts and answers."),
        Measure(
            "tokens_per_second",
            "Tokens/s",
            "Without compilation and evaluation.",
            Better.HIGHER,
        ),
    ),
)

EVALUATE = Kind(
    name="evaluate",
    label="Evaluation",
    parameters=EVALUATION,
    dataset_formats=("tunix_sft", "tunix_prompts"),
    section="evaluation",
    command="evaluate",
    metrics=_by_name(
        Measure("items", "Items", "That have their scores."),
        Measure("truncated", "Truncated", "Outputs that reached max_tokens.", Better.LOWER),
        Measure("tokens_per_second", "Tokens/s", "Of outputs, since the line before."),
    ),
    results=_by_name(
        Measure("items", "Items", "Questions of the set."),
        Measure("outputs", "Outputs", "Items times samples."),
        Measure("truncated", "Truncated", "Outputs that reached max_tokens.", Better.LOWER),
        Measure("tokens", "Tokens", "Of outputs."),
        Measure("tokens_per_second", "Tokens/s", "Of outputs.", Better.HIGHER),
    ),
)

# The kinds of training.
KINDS: dict[str, Kind] = {kind.name: kind for kind in (SFT,)}
DEFAULT_KIND = SFT.name


def kind_names() -> tuple[str, ...]:
    return (*KINDS, EVALUATE.name)


def kind_named(name: str) -> Kind | None:
    """Return the kind of a training, or that of an evaluation; None where there is no such kind."""
    return EVALUATE if name == EVALUATE.name else KINDS.get(name)
