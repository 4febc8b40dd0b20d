import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.examples.kinds import parse_example
from datasets.models import Dataset
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from datasets.storage.tally import Histogram, Lengths
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
    lengths, messages = (
        dataset.stats[name] for name in ("example_characters_histogram", "messages_histogram")
    )
    assert text.count("<rect") == len(lengths) + len(messages) >= 2
    make_dataset(0, name="empty")
    assert "<rect" not in client.get("/datasets/empty-v1").content.decode()


def chat(count: int) -> dict[str, object]:
    """A conversation of ``count`` messages that ends with an answer."""
    roles = ["user", "assistant"] * count
    return {"messages": [{"role": role, "content": "x"} for role in roles[count % 2 :][:count]]}


def test_messages_are_counted_one_by_one_and_long_conversations_in_classes():
    lengths = Lengths()
    for count in (2, 2, 3, 8, 9, 16, 17, 32, 33, 1000):
        lengths.add(parse_example(chat(count)))
    stats = lengths.as_stats(0)
    assert stats["messages_histogram"] == [
        [2, 2, 2], [3, 3, 1], [8, 8, 1], [9, 16, 2], [17, 32, 2], [33, 64, 1], [513, 1024, 1],
    ]  # fmt: skip
    assert sum(stats["roles"].values()) == 2 + 2 + 3 + 8 + 9 + 16 + 17 + 32 + 33 + 1000


def test_a_pair_counts_as_with_its_chosen_answer_and_a_prompt_as_it_is():
    lengths = Lengths()
    lengths.add(parse_example({"prompt": "q", "chosen": "a", "rejected": "b"}))
    lengths.add(parse_example({"kind": "prompt", "prompt": "q"}))
    stats = lengths.as_stats(0)
    assert stats["messages_histogram"] == [[1, 1, 1], [2, 2, 1]]
    assert stats["roles"] == {"user": 2, "assistant": 1}


@pytest.mark.django_db
def test_the_page_shows_who_speaks_by_share(client, user):
    client.force_login(user)
    examples = create_traces(items=[chat(2), chat(3), chat(4)], by=None)
    create_dataset(name="chats", version="v1", trace_ids=[one.pk for one in examples], by=None)
    text = client.get("/datasets/chats-v1").content.decode()
    turns = text.split('data-testid="turns"')[1].split("</section>")[0]
    assert "44.4 %" in turns and "55.6 %" in turns  # 4 of 9, 5 of 9
    assert turns.count("<rect") == 3
    assert "'width'" not in text  # no notice above the page
    # a dataset of before these were counted
    dataset = Dataset.objects.get()
    del dataset.stats["roles"], dataset.stats["messages_histogram"]
    dataset.save()
    assert 'data-testid="turns"' not in client.get("/datasets/chats-v1").content.decode()
