"""What a training learns from its data: one objective for each kind of training.

To add a kind, write its objective in a module of its own and add it to ``OBJECTIVES``
(docs/extending.md). Importing this package does not import JAX.
"""

from __future__ import annotations

from typing import Any

from runs.trainer.errors import ManifestProblem
from runs.trainer.objectives.objective import Objective
from runs.trainer.objectives.sft import SupervisedFineTuning

DEFAULT_KIND = SupervisedFineTuning.kind

OBJECTIVES: dict[str, type[Objective]] = {
    objective.kind: objective for objective in (SupervisedFineTuning,)
}


def objective_for(manifest: dict[str, Any]) -> Objective:
    """Return the objective of the manifest's ``kind``; a manifest without one means ``sft``.

    Raises:
        ManifestProblem: there is no such kind.
    """
    kind = manifest.get("kind") or DEFAULT_KIND
    if kind not in OBJECTIVES:
        raise ManifestProblem(f"kind: {kind!r} is not one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[kind](manifest["training"])
