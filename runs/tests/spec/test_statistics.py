"""Statistics against published values, exact probabilities and simulated comparisons."""

import math
from random import Random

import pytest

from runs.spec import statistics
from runs.spec.statistics import (
    NotEnough,
    bootstrap_interval,
    compare,
    kappa,
    mcnemar,
    paired_share_interval,
    pairs_needed,
    pass_at_k,
    share_interval,
    smallest_effect,
    smallest_paired_effect,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998a, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombe(successes: int, n: int, low: float, high: float):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998b
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland, Lydersen and Laake 2014, airways
    ],
)
def test_the_paired_interval_agrees_with_the_literature(
    cells: tuple[int, int, int, int], low: float, high: float
):
    assert paired_share_interval(*cells) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (5, 0, 0.0625),
        (6, 0, 0.03125),
        (20, 8, 0.0357),
        (7, 1, 0.0703),  # Fagerland, Lydersen and Laake 2014
        (0, 0, 1.0),
        (9, 9, 1.0),
        (3, 4, 1.0),
    ],
)
def test_mcnemar_is_exact(only_first: int, only_second: int, p: float):
    assert mcnemar(only_first, only_second) == pytest.approx(p, abs=5e-5)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


def test_mcnemar_agrees_with_whole_numbers_and_is_quick_with_many():
    tail = 2 * sum(math.comb(500, k) for k in range(231)) / 2**500
    assert mcnemar(230, 270) == pytest.approx(tail, rel=1e-9)
    assert 0 < mcnemar(500_000, 503_000) < 0.01


@pytest.mark.parametrize("n", [30, 100, 300])
def test_wilson_covers_the_truth_as_often_as_it_says(n: int):
    """Exact: the probability of each count times whether its interval holds the truth, averaged
    over shares from 0.01 to 0.99."""
    intervals = [wilson(count, n) for count in range(n + 1)]
    coverage = 0.0
    for step in range(1, 100):
        p = step / 100
        coverage += sum(
            math.comb(n, count) * p**count * (1 - p) ** (n - count)
            for count, (low, high) in enumerate(intervals)
            if low <= p <= high
        )
    assert coverage / 99 == pytest.approx(0.95, abs=0.006)


def test_mcnemar_is_wrong_in_no_more_than_one_of_twenty():
    """10,000 simulated comparisons of equally good models."""
    random, wrong = Random(1), 0
    for _ in range(10_000):
        discordant = random.randrange(5, 60)
        first = random.getrandbits(discordant).bit_count()
        wrong += mcnemar(first, discordant - first) <= 0.05
    assert 0.02 < wrong / 10_000 <= 0.05


def test_the_bootstrap_is_wrong_in_about_one_of_twenty():
    """A small form of `python -m benchmarks.error_rates`."""
    random, wrong, rounds = Random(2), 0, 300
    for number in range(rounds):
        differences = [random.random() - random.random() for _ in range(100)]
        low, high = bootstrap_interval(differences, seed=number, resamples=400)
        wrong += not low <= 0 <= high
    assert 0.01 < wrong / rounds < 0.11  # beyond it: one seed in a thousand


def test_the_bootstrap_repeats_itself_and_narrows():
    random = Random(3)
    values = [random.gauss(1, 1) for _ in range(50)]
    low, high = bootstrap_interval(values, seed=5)
    assert (low, high) == bootstrap_interval(values, seed=5)
    assert (low, high) != bootstrap_interval(values, seed=6)
    assert low < sum(values) / 50 < high
    narrow = bootstrap_interval(values * 4, seed=5)
    assert narrow.high - narrow.low == pytest.approx((high - low) / 2, rel=0.15)


def test_one_sample_a_question_is_wilsons_interval():
    assert share_interval([1.0] * 81 + [0.0] * 182) == pytest.approx(wilson(81, 263))


def test_samples_of_a_question_are_not_questions():
    """Ten equal samples of a question say no more than one; ten independent ones say more."""
    asked = [1.0, 0.0] * 50
    assert share_interval(asked) == pytest.approx(wilson(50, 100))
    independent = [0.5] * 100
    low, high = share_interval(independent)
    assert (low, high) == pytest.approx(wilson(50, 100))  # no less than the questions
    mixed = share_interval([0.4, 0.6] * 50)
    assert mixed.high - mixed.low < 0.05


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_scores_that_are_all_equal_have_an_interval(score: float):
    assert share_interval([score] * 20) == pytest.approx(wilson(20 * score, 20))


def test_right_and_wrong_are_compared_by_mcnemar():
    first = [1] * 20 + [0] * 8 + [1] * 100 + [0] * 92
    second = [0] * 20 + [1] * 8 + [1] * 100 + [0] * 92
    found = compare(first, second)
    assert (found.n, found.only_first, found.only_second) == (220, 20, 8)
    assert found.difference == pytest.approx(12 / 220)
    assert found.p_value == pytest.approx(0.0357, abs=5e-5)
    assert found.is_real
    assert found.interval.low > 0
    assert not compare(first[:20] + first[28:], first[:20] + first[28:]).is_real


def test_other_scores_are_compared_by_the_bootstrap():
    first = [0.5 + number % 7 / 20 for number in range(100)]
    second = [score - 0.1 + number % 3 / 30 for number, score in enumerate(first)]
    found = compare(first, second, seed=1)
    assert found.p_value is None
    assert found.interval.low < found.difference < found.interval.high
    assert found.is_real
    assert "bootstrap" in found.method


def test_scores_of_different_questions_are_not_compared():
    with pytest.raises(ValueError, match="shorter"):
        compare([1, 0, 1], [1, 0])


@pytest.mark.parametrize("n", [48, 200, 1319])
def test_the_smallest_effect_is_that_of_the_textbook(n: int):
    points = {48: 0.286, 200: 0.140, 1319: 0.0545}
    assert smallest_effect(n) == pytest.approx(points[n], abs=5e-4)


def test_pairs_show_more_than_independent_samples():
    differences = [1.0] * 10 + [-1.0] * 10 + [0.0] * 180
    assert smallest_paired_effect(differences) < smallest_effect(200) / 2


def test_the_pairs_needed_grow_with_what_must_be_shown():
    differences = [1.0] * 10 + [-1.0] * 10 + [0.0] * 180
    loose, tight = pairs_needed(differences, 0.1), pairs_needed(differences, 0.01)
    assert loose is not None and tight is not None
    assert loose < 200 < tight
    assert tight == pytest.approx(100 * loose, rel=0.05)
    assert pairs_needed([-0.2, -0.3] * 10, 0.1) is None


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(n: int):
    for right in range(n + 1):
        for k in range(1, n + 1):
            assert pass_at_k(n, right, k) == pytest.approx(
                1 - math.comb(n - right, k) / math.comb(n, k)
            )


@pytest.mark.parametrize(("n", "right", "k"), [(3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be(n: int, right: int, k: int):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, right, k)


def test_kappa_is_agreement_beyond_chance():
    # the example of the usual textbooks: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no
    first = "y" * 25 + "n" * 25
    second = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert kappa(first, second) == pytest.approx(0.4)
    assert kappa("ab" * 5, "ab" * 5) == pytest.approx(1.0)
    assert kappa("aaa", "aaa") is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(0, 0),
        lambda: share_interval([]),
        lambda: bootstrap_interval([1.0], seed=0),
        lambda: compare([1], [0]),
        lambda: smallest_paired_effect([1.0]),
        lambda: pairs_needed([1.0], 0.1),
        lambda: kappa([], []),
    ],
)
def test_too_little_is_said(call):
    with pytest.raises(NotEnough):
        call()


def test_the_sources_are_named():
    for word in ("Wilson 1927", "Newcombe 1998b", "Chen et al. 2021", "Cohen 1960"):
        assert word in (statistics.__doc__ or "")
