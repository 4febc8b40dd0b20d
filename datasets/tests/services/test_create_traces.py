import threading

import pytest
from django.db import connection

from datasets.models import Trace
from datasets.services.refusals import InvalidTraces
from datasets.services.traces import create_traces
from datasets.tests.factory import make_traces, trace_body


@pytest.mark.django_db
def test_traces_are_stored_in_the_order_given(user):
    traces = create_traces(items=[trace_body(3), trace_body(1), trace_body(2)], by=user)
    assert [trace.final_answer for trace in traces] == ["4", "2", "3"]
    assert list(Trace.objects.values_list("created_by", flat=True).distinct().order_by()) == [
        user.pk
    ]
    stored = Trace.objects.get(pk=traces[0].pk)
    assert stored.prompt == "3+1=?"
    assert stored.steps == [{"i": 0, "type": "reasoning", "content": "3 and one"}]
    assert stored.meta == {"number": 3}
    assert stored.trace_version == "1.0"


@pytest.mark.django_db
def test_the_same_trace_is_stored_once(user):
    first = create_traces(items=[trace_body(1), trace_body(1)], by=user)
    again = create_traces(items=[trace_body(1), trace_body(2)], by=None)
    assert first[0].pk == first[1].pk == again[0].pk
    assert Trace.objects.count() == 2
    assert again[0].created_by == user


@pytest.mark.django_db
def test_one_bad_trace_stores_nothing():
    with pytest.raises(InvalidTraces) as caught:
        create_traces(items=[trace_body(1), trace_body(2, prompt=""), 5], by=None)
    assert caught.value.errors == {
        1: {"prompt": ["Must not be blank."]},
        2: {"trace": ["Must be an object, not a number."]},
    }
    assert caught.value.count == 2
    assert not Trace.objects.exists()


@pytest.mark.django_db
def test_only_the_first_hundred_bad_traces_are_named():
    with pytest.raises(InvalidTraces) as caught:
        create_traces(items=[{}] * 101, by=None)
    assert len(caught.value.errors) == 100
    assert caught.value.count == 101


@pytest.mark.django_db
def test_no_traces_at_all():
    assert create_traces(items=[], by=None) == []


@pytest.mark.django_db
def test_more_traces_than_one_batch(monkeypatch):
    monkeypatch.setattr("datasets.services.traces.WRITE_BATCH", 4)
    traces = make_traces(10)
    assert [trace.meta["number"] for trace in traces] == list(range(10))
    assert Trace.objects.count() == 10


@pytest.mark.django_db
@pytest.mark.parametrize(
    "text",
    ["é", "\u2028", "😀", "100 %s %(x)s ?", "'; DROP TABLE datasets_trace; --", "\x01\x7f", "\r\n"],
)
def test_text_comes_back_as_it_was(text):
    (trace,) = create_traces(
        items=[
            {
                "prompt": text + ".",
                "final_answer": text + ".",
                "meta": {text: [text, 1.5, -0.25, 2**53, None, True]},
            }
        ],
        by=None,
    )
    stored = Trace.objects.get(pk=trace.pk)
    assert stored.prompt == stored.final_answer == text + "."
    assert stored.meta == {text: [text, 1.5, -0.25, 2**53, None, True]}


@pytest.mark.django_db(transaction=True)
def test_writers_of_the_same_traces_at_the_same_moment_get_the_same_ids():
    start = threading.Barrier(4, timeout=180)
    results = []

    def write(order):
        try:
            start.wait()
            traces = create_traces(items=[trace_body(number) for number in order], by=None)
            results.append({trace.content_hash: trace.pk for trace in traces})
        finally:
            connection.close()

    orders = [range(50), range(49, -1, -1), range(25, 75), range(74, 24, -1)]
    threads = [threading.Thread(target=write, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    stored = dict(Trace.objects.values_list("content_hash", "pk"))
    assert len(stored) == 75
    assert all(
        stored[content_hash] == pk for result in results for content_hash, pk in result.items()
    )
