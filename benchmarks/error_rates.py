"""How often the statistics of evaluations are wrong, in simulated comparisons of equal models.

    python -m benchmarks.error_rates [--rounds 10000] [--questions 100]

A test at 95 % may call one in twenty of them a difference. docs/results.md has the figures.
"""

import argparse
from random import Random

from runs.spec.statistics import bootstrap_interval, mcnemar, share_interval


def mcnemar_errors(rounds: int, questions: int, random: Random) -> float:
    """Return the share of comparisons of two models, right with the same probability, that the
    exact test calls a difference."""
    wrong = 0
    for _ in range(rounds):
        p = random.random()
        first = [random.random() < p for _ in range(questions)]
        second = [random.random() < p for _ in range(questions)]
        pairs = list(zip(first, second, strict=True))
        wrong += mcnemar(pairs.count((True, False)), pairs.count((False, True))) <= 0.05
    return wrong / rounds


def bootstrap_errors(rounds: int, questions: int, random: Random) -> float:
    """Return the same for the paired bootstrap, with scores from 0 to 1 of questions of unequal
    difficulty."""
    wrong = 0
    for number in range(rounds):
        differences = []
        for _ in range(questions):
            easy = random.uniform(0.5, 4)
            differences.append(random.betavariate(easy, 2) - random.betavariate(easy, 2))
        low, high = bootstrap_interval(differences, seed=number)
        wrong += not low <= 0 <= high
    return wrong / rounds


def coverage(rounds: int, questions: int, samples: int, random: Random) -> float:
    """Return how often the interval of several samples a question holds the true mean."""
    held = 0
    for _ in range(rounds):
        shape = random.uniform(0.3, 3)
        means = []
        for _ in range(questions):
            p = random.betavariate(shape, shape)
            means.append(sum(random.random() < p for _ in range(samples)) / samples)
        low, high = share_interval(means)
        held += low <= 0.5 <= high
    return held / rounds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    random = Random(asked.seed)
    print(f"{asked.rounds:,} comparisons of equal models, {asked.questions} questions")
    found = mcnemar_errors(asked.rounds, asked.questions, random)
    print(f"McNemar, exact: a difference in {found:.2%} (at most 5 %)")
    found = bootstrap_errors(asked.rounds, asked.questions, random)
    print(f"paired bootstrap: a difference in {found:.2%} (goal: at most 6 %)")
    found = coverage(asked.rounds, asked.questions, 4, random)
    print(f"four samples a question: the interval holds the mean in {found:.2%}")


if __name__ == "__main__":
    main()
