"""A leaderboard and the list of evaluations beside the history, as evaluations become many:
``python -m benchmarks.leaderboards``.

So many runs and so many complete evaluations of one set of 200 questions are stored by the models
of the project; then pages are asked for by WSGI in this process: all middleware, no network. The
figure is the median of eleven requests in milliseconds, in brackets the longest.
docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from typing import Any

import django

from benchmarks.databases import new_system, on_each_database, parser_for

SIZES = (1_000, 100_000)
QUESTIONS = 200
BATCH = 2_000


def main() -> int:
    parser = parser_for("benchmarks.leaderboards", __doc__ or "")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="evaluations, ascending"
    )
    return on_each_database(measure, parser.parse_args())


def measure(database: str, arguments: argparse.Namespace) -> None:
    with new_system(database, "leaderboards", durable=False) as (_, environment):
        os.environ |= environment
        django.setup()
        from django.contrib.auth.models import User  # noqa: PLC0415
        from django.test import Client  # noqa: PLC0415

        from benchmarks.history import fill  # noqa: PLC0415 - models need the settings
        from benchmarks.scale_requests import analyse, timed  # noqa: PLC0415

        user = User.objects.create(username="reader")
        client = Client(HTTP_HOST="localhost")
        client.force_login(user)
        stored = 0
        for size in arguments.sizes:
            key = store(size - stored, user)
            fill(size - stored)
            stored = size
            analyse()
            asked = {
                "history": "/",
                "list of evaluations": "/evaluations",
                "leaderboard": f"/leaderboards/{key}",
                "API: leaderboard": f"/api/tunix/leaderboards/{key}",
                "API: runs": "/api/tunix/runs",
                "API: evaluations": "/api/tunix/evaluations",
            }
            found = {name: timed(client, path) for name, path in asked.items()}
            print(json.dumps({"database": database, "evaluations": size, "ms": found}, indent=1))
            sys.stdout.flush()


def store(count: int, user: Any) -> str:
    """Store so many complete evaluations of one set; return the key of the set."""
    from django.utils import timezone  # noqa: PLC0415

    from runs.models import Evaluation, EvaluationSet, Look, Run, Score, Standing  # noqa: PLC0415
    from runs.models.evaluation import pack_examples, pack_hashes, pack_scores  # noqa: PLC0415
    from runs.spec.statistics import share_interval  # noqa: PLC0415

    hashes = [f"{number:064x}" for number in range(QUESTIONS)]
    questions, _ = EvaluationSet.objects.get_or_create(
        key="0" * 64,
        defaults={
            "dataset_key": "quiz-v1",
            "fingerprint": "sha256:0",
            "part": "all",
            "hashes": pack_hashes(hashes),
            "examples": pack_examples([""] * QUESTIONS),
        },
    )
    draw = random.Random(count)
    for start in range(0, count, BATCH):
        now = timezone.now()
        runs, evaluations, scores, looks = [], [], [], []
        for number in range(start, min(start + BATCH, count)):
            run = Run(
                dataset_key="quiz-v1",
                model_id=f"./models/model-{number % 997}",
                kind="evaluate",
                dry_run=False,
                status="completed",
                exit_code=0,
                created_at=now,
                started_at=now,
                completed_at=now,
                duration_seconds=1.0,
                owner=user,
                config={"method": "generate", "scorers": [], "seed": 0},
            )
            run.output_dir = str(run.pk)
            right = draw.uniform(0.2, 0.9)
            values = [float(draw.random() < right) for _ in range(QUESTIONS)]
            low, high = share_interval(values)
            evaluation = Evaluation(
                run=run,
                questions=questions,
                created_at=now,
                lineage=f"./models/model-{number % 997}",
                settings_hash="0" * 64,
                complete=True,
                answered=QUESTIONS,
                weights=f"{number:064x}",
                identity=f"{draw.getrandbits(256):064x}",
                family=f"{draw.getrandbits(256):064x}",
            )
            runs.append(run)
            evaluations.append(evaluation)
            looks.append(
                Look(
                    questions=questions,
                    lineage=evaluation.lineage,
                    run_id=run.pk,
                    by=user.username,
                    at=now,
                )
            )
            scores.append(
                Score(
                    evaluation=evaluation,
                    questions=questions,
                    label="exact_match",
                    scorer={"name": "exact_match", "version": 1, "parameters": {}},
                    scorer_hash="0" * 16,
                    mean=sum(values) / QUESTIONS,
                    low=low,
                    high=high,
                    bound=low,
                    n=QUESTIONS,
                    scored=QUESTIONS,
                    failed=0,
                    truncated=0,
                    total=QUESTIONS,
                    values=pack_scores(values),
                    standing=Standing.RANKED,
                )
            )
        for model, rows in ((Run, runs), (Evaluation, evaluations), (Score, scores), (Look, looks)):
            model.objects.bulk_create(rows)
    return str(questions.key)


if __name__ == "__main__":
    sys.exit(main())
