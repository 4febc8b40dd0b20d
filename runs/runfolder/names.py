"""File names in a run folder and in the output root."""

from __future__ import annotations

LOCK = "lock"
MANIFEST = "manifest.yaml"
DATASET = "dataset.jsonl"
COMMAND = "command.json"
KEEPER = "keeper.json"
STOP = "stop.json"
STDOUT = "stdout.log"
STDERR = "stderr.log"
METRICS = "metrics.jsonl"
RESULT = "result.json"
PLAN = "plan.json"
ITEMS = "items.jsonl"
EVALUATION = "evaluation.json"  # to which evaluation the items belong
OUTPUTS = "outputs.jsonl"
SEEN = "seen.json"
EXIT = "exit.json"
CHECKPOINTS = "checkpoints"
MODEL = "model"
NAMES = (
    LOCK,
    MANIFEST,
    DATASET,
    COMMAND,
    KEEPER,
    STOP,
    STDOUT,
    STDERR,
    METRICS,
    SEEN,
    RESULT,
    PLAN,
    ITEMS,
    EVALUATION,
    OUTPUTS,
    EXIT,
)

# Beside the runs, in the output root: what hosts keep there, and the id by which the database knows
# the root.
HOSTS = ".hosts"
ROOT_ID = "root_id"
