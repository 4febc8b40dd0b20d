"""The numbers of result.json."""

import math
from typing import Any

import pytest

from runs.spec.scorers import choose, labels
from runs.trainer.evaluation.record import Answer
from runs.trainer.evaluation.summary import Tally, summary_of, weighted

CHOSEN = choose([{"name": "exact_match", "weight": 3}, {"name": "chrf"}])
LABELS = labels(CHOSEN)


def tally_of(*items: list[tuple[float | None, float | None]]) -> Tally:
    """Items with outputs, each with the score of both scorers."""
    tally = Tally(LABELS)
    for item in items:
        tally.add(
            [
                Answer(
                    "",
                    2,
                    "stop",
                    scores=dict(zip(LABELS, scores, strict=True)),
                    problems={
                        label: "no number"
                        for label, score in zip(LABELS, scores, strict=True)
                        if score is None
                    },
                )
                for scores in item
            ]
        )
    return tally


def summary(tally: Tally, number: int) -> dict[str, Any]:
    return summary_of(LABELS[number], tally, chosen=CHOSEN[number])


def test_what_failed_is_counted_and_never_averaged():
    tally = tally_of([(1.0, 0.5)], [(None, 0.25)], [(0.0, None)])

    first = summary(tally, 0)

    assert (first["mean"], first["scored"], first["failed"], first["total"]) == (0.5, 2, 1, 3)
    assert (first["questions"], first["first_problem"]) == (2, "no number")
    assert tally.means() == {"exact_match": 0.5, "chrf": 0.375}
    assert tally.failed_entirely() == []


def test_several_samples_count_by_question():
    tally = tally_of([(1.0, 0.0)] * 3 + [(0.0, 0.0)], [(0.0, 0.0), (None, 0.0)] * 2)

    first = summary(tally, 0)

    assert (first["mean"], first["questions"], first["scored"]) == (0.375, 2, 6)
    # of the second question only two samples have a score
    assert first["pass_at_k"] == {"1": 0.375, "2": (1.0 + 0.0) / 2, "4": 1.0}
    assert summary(tally, 1)["pass_at_k"] is None  # no score of 0 or 1


def test_weights_count_where_every_scorer_scored():
    tally = tally_of([(1.0, 0.5)], [(None, 1.0)], [(0.0, 1.0)])

    both = weighted(LABELS, CHOSEN, tally)

    assert both["mean"] == pytest.approx(((3 * 1 + 0.5) / 4 + 1 / 4) / 2)
    assert (both["questions"], both["scored"]) == (2, 2)


def test_a_scorer_that_never_scored_has_no_mean():
    tally = tally_of([(None, 1.0)], [(None, 0.0)])

    assert tally.failed_entirely() == ["exact_match"]
    first = summary(tally, 0)
    assert (first["mean"], first["low"], first["failed"]) == (None, None, 2)
    assert weighted(LABELS, CHOSEN, tally)["mean"] is None


def test_perplexity_is_by_token():
    tally = Tally(("nll",))
    for nll, tokens in ((1.0, 3), (3.0, 1)):
        tally.add([Answer("", tokens, "measured", scores={"nll": nll})])

    assert tally.perplexity() == pytest.approx(math.exp((1.0 * 3 + 3.0) / 4))
    found = summary_of("nll", tally, chosen=None)
    assert found["mean"] == 2.0
    assert (found["scorer"], found["pass_at_k"]) == (None, None)
    assert Tally(("nll",)).perplexity() is None
