"""Statistics of evaluations: intervals, paired comparisons, and what a sample cannot show.

Standard library only; the server and the training program use the same functions. Scores are
numbers where more is better; those of a question are averaged before anything else, so that several
samples of a question never count as several questions. Intervals are two-sided.

Sources, named in the docstrings:

* Wilson 1927, JASA 22, 209-212.
* Newcombe 1998a, Statistics in Medicine 17, 857-872 (one proportion).
* Newcombe 1998b, Statistics in Medicine 17, 2635-2650 (paired proportions, method 10).
* Korn and Graubard 1998, Survey Methodology 24, 193-201 (effective sample size).
* Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentiles).
* Chen et al. 2021, arXiv 2107.03374 (pass@k).
* Cohen 1960, Educational and Psychological Measurement 20, 37-46 (kappa).
* Miller 2024, arXiv 2411.00640 (paired differences and clusters in evaluations).
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist, fmean, variance
from typing import NamedTuple

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 2_000
RANKED_MIN = 30  # questions: with fewer a score says too little for a place on a leaderboard


class Interval(NamedTuple):
    low: float
    high: float


class NotEnough(ValueError):
    """There are too few values to say anything."""


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the score interval of a proportion (Wilson 1927).

    Args:
        successes, n: counts; fractions where ``n`` is an effective sample size.

    Raises:
        NotEnough: ``n`` is 0.
    """
    if n <= 0:
        raise NotEnough("no values")
    z, p = _z(confidence), successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # at the ends the two terms are equal but for rounding
    low = 0.0 if successes <= 0 else max(0.0, middle - half)
    high = 1.0 if successes >= n else min(1.0, middle + half)
    return Interval(low, high)


def share_interval(means: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of the mean of scores from 0 to 1, one for each question.

    It is Wilson's interval at the effective sample size p(1-p)/SE² (Korn and Graubard 1998), which
    is never less than the number of questions. For right or wrong with one sample it is Wilson's
    interval itself.

    Raises:
        NotEnough: there is no score.
    """
    n = len(means)
    if n == 0:
        raise NotEnough("no scores")
    p = fmean(means)
    spread = variance(means) * (n - 1) / n if n > 1 else 0.0
    effective = n * p * (1 - p) / spread if spread > 0 else float(n)
    effective = max(float(n), effective)
    return wilson(p * effective, effective, confidence)


def bootstrap_interval(
    values: Sequence[float],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the percentile bootstrap interval of a mean (Efron and Tibshirani 1993). The same
    values and seed give the same interval.

    Raises:
        NotEnough: there are fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise NotEnough("one value has no spread")
    random = Random(seed)
    means = sorted(math.fsum(random.choices(values, k=n)) / n for _ in range(resamples))
    outside = round((1 - confidence) / 2 * resamples)
    return Interval(means[outside], means[resamples - 1 - outside])


def normal_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of a mean by the central limit theorem (Miller 2024, equation 1), which
    costs one pass over the values.

    Raises:
        NotEnough: there are fewer than two values.
    """
    if len(values) < 2:
        raise NotEnough("one value has no spread")
    mean, half = fmean(values), _z(confidence) * math.sqrt(variance(values) / len(values))
    return Interval(mean - half, mean + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p value that two models differ, from the questions that only the
    first and only the second answers: twice the smaller tail of Binomial(n, 1/2), at most 1."""
    n, k = only_first + only_second, min(only_first, only_second)
    log_term = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    term = total = math.exp(log_term)
    while k > 0 and term > total * 1e-18:
        term *= k / (n - k + 1)
        total += term
        k -= 1
    return min(1.0, 2 * total)


def paired_share_interval(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = CONFIDENCE
) -> Interval:
    """Return the interval of the first share less the second of two models on the same questions
    (Newcombe 1998b, method 10: both Wilson intervals, squared and added, with the correlation).

    Raises:
        NotEnough: there is no question.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    (low_1, high_1), (low_2, high_2) = (wilson(x, n, confidence) for x in (first, second))
    p_1, p_2 = first / n, second / n
    margins = first * (n - first) * second * (n - second)
    covariance: float = both * neither - only_first * only_second
    if covariance > 0:  # with Yates's correction, as the method has it
        covariance = max(covariance - n / 2, 0)
    phi = covariance / math.sqrt(margins) if margins else 0.0
    below, above = p_1 - low_1, high_2 - p_2
    difference = p_1 - p_2
    down = math.sqrt(max(0.0, below**2 - 2 * phi * below * above + above**2))
    below, above = p_2 - low_2, high_1 - p_1
    up = math.sqrt(max(0.0, below**2 - 2 * phi * below * above + above**2))
    return Interval(difference - down, difference + up)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same questions. ``difference``: first less second, in the unit of the
    scores. ``only_first``, ``only_second``: questions at which one has the higher score.
    ``p_value``: exact McNemar where all scores are 0 or 1, else None. ``method``: what the interval
    comes from."""

    n: int
    difference: float
    interval: Interval
    only_first: int
    only_second: int
    p_value: float | None
    method: str

    @property
    def is_real(self) -> bool:
        """Whether chance is not a likely reason of the difference."""
        if self.p_value is not None:
            return self.p_value <= 1 - CONFIDENCE
        return not self.interval.low <= 0 <= self.interval.high


def compare(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> Paired:
    """Compare two models by their scores of the same questions in the same order, one score for
    each question (Miller 2024: paired, by question).

    Args:
        seed, resamples: of the bootstrap for scores that are not 0 or 1; without resamples the
            interval is ``normal_interval``, for lists of many comparisons.

    Raises:
        NotEnough: there are fewer than two questions.
        ValueError: the numbers of scores differ.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n = len(differences)
    if n < 2:
        raise NotEnough("fewer than two questions")
    only_first = sum(difference > 0 for difference in differences)
    only_second = sum(difference < 0 for difference in differences)
    if all(score in (0, 1) for scores in (first, second) for score in scores):
        both = sum(a == b == 1 for a, b in zip(first, second, strict=True))
        neither = n - both - only_first - only_second
        interval = paired_share_interval(both, only_first, only_second, neither)
        p_value, method = mcnemar(only_first, only_second), "McNemar, exact; interval by Newcombe"
    elif resamples:
        interval = bootstrap_interval(differences, seed=seed, resamples=resamples)
        p_value, method = None, f"paired bootstrap, {resamples:,} resamples"
    else:
        interval = normal_interval(differences)
        p_value, method = None, "paired difference, normal interval"
    return Paired(n, fmean(differences), interval, only_first, only_second, p_value, method)


def smallest_effect(
    n: int, p: float = 0.5, *, confidence: float = CONFIDENCE, power: float = POWER
) -> float:
    """Return the smallest difference of two shares around ``p`` that ``n`` questions for each of
    two independent samples show with probability ``power``."""
    return (_z(confidence) + NormalDist().inv_cdf(power)) * math.sqrt(2 * p * (1 - p) / n)


def smallest_paired_effect(
    differences: Sequence[float], *, confidence: float = CONFIDENCE, power: float = POWER
) -> float:
    """Return the smallest difference that as many pairs with this spread show with probability
    ``power``.

    Raises:
        NotEnough: there are fewer than two pairs.
    """
    if len(differences) < 2:
        raise NotEnough("one pair has no spread")
    error = math.sqrt(variance(differences) / len(differences))
    return (_z(confidence) + NormalDist().inv_cdf(power)) * error


def pairs_needed(
    differences: Sequence[float],
    margin: float,
    *,
    confidence: float = CONFIDENCE,
    power: float = POWER,
) -> int | None:
    """Return how many pairs would show with probability ``power`` that the mean difference is not
    below ``-margin``, if difference and spread stay what they are; None where no number would, as
    the difference is at or below ``-margin``.

    Raises:
        NotEnough: there are fewer than two pairs.
    """
    if len(differences) < 2:
        raise NotEnough("one pair has no spread")
    room = fmean(differences) + margin
    if room <= 0:
        return None
    factor = _z(confidence) + NormalDist().inv_cdf(power)
    return max(2, math.ceil(factor**2 * variance(differences) / room**2))


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the unbiased estimate of the probability that one of ``k`` samples is right, from
    ``n`` samples of which ``right`` are (Chen et al. 2021).

    Raises:
        ValueError: not 1 ≤ k ≤ n, or not 0 ≤ right ≤ n.
    """
    if not 1 <= k <= n or not 0 <= right <= n:
        raise ValueError(f"pass@{k} of {n} samples, {right} of them right")
    if n - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - right + 1, n + 1))


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Return how far two raters agree beyond chance (Cohen 1960): 1 for always, 0 for no more than
    by chance; None where chance alone would make them agree always.

    Raises:
        NotEnough: nothing was rated.
        ValueError: the numbers of ratings differ.
    """
    agreed = sum(a == b for a, b in zip(first, second, strict=True))
    n = len(first)
    if n == 0:
        raise NotEnough("no ratings")
    counts, others = Counter(first), Counter(second)
    by_chance = sum(counts[rating] * others[rating] for rating in counts) / n**2
    if by_chance == 1:
        return None
    return (agreed / n - by_chance) / (1 - by_chance)
