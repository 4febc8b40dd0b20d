import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.tally import Histogram
from datasets.tests.factory import make_dataset


@given(st.lists(st.integers(0, 2_000_000), max_size=200))
def test_every_number_is_in_one_class_whatever_their_order(numbers):
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    classes = histogram.as_list()

    assert len(classes) <= Histogram.CLASSES
    assert sum(count for _, _, count in classes) == len(numbers)
    for start, end, count in classes:
        assert count == sum(start <= number <= end for number in numbers)
    again = Histogram()
    for number in sorted(numbers):
        again.add(number)
    assert again.as_list() == classes
    if numbers:
        assert classes[-1][0] <= max(numbers) <= classes[-1][1]
        assert 2 * len(classes) > Histogram.CLASSES or histogram.width == 16


@pytest.mark.django_db
def test_the_page_of_a_dataset_shows_it(client, user):
    client.force_login(user)
    dataset = make_dataset(30)
    text = client.get("/datasets/sums-v1").content.decode()
    assert "Examples by length, in characters" in text
    assert text.count("<rect") == len(dataset.stats["example_characters_histogram"]) >= 1
    make_dataset(0, name="empty")
    assert "<rect" not in client.get("/datasets/empty-v1").content.decode()
