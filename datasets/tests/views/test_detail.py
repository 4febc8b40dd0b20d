import pytest

from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from datasets.tests.factory import make_dataset, make_traces

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(client, user):
    client.force_login(user)
    return client


def test_manifest_and_first_examples(browser):
    dataset = make_dataset(12, held_out=3)
    text = browser.get("/datasets/sums-v1").content.decode()
    assert dataset.fingerprint in text
    assert text.count('data-testid="example-row"') == 10
    assert text.count('data-testid="split-held_out"') == 1
    assert text.count('data-testid="split-train"') == 9
    assert 'href="?from=10"' in text
    assert "/api/datasets/sums-v1/export.jsonl" in text
    assert "?dataset_key=sums-v1" in text


def test_examples_are_searched_and_paged_through(browser, monkeypatch):
    monkeypatch.setattr("datasets.views.datasets.EXAMPLES", 2)
    items = [{"prompt": f"{n} <b>", "final_answer": "even" if n % 2 else "Odd"} for n in range(12)]
    traces = create_traces(items=[one | {"steps": []} for one in items], by=None)
    create_dataset(name="two", version="v1", trace_ids=[one.pk for one in traces], by=None)

    def positions(response):
        return [example["item"].position for example in response.context["examples"]]

    first = browser.get("/datasets/two-v1?q=odd")
    assert positions(first) == [0, 2]
    assert 'href="?q=odd&amp;from=4"' in first.content.decode()
    assert positions(browser.get("/datasets/two-v1?q=odd&from=4")) == [4, 6]
    assert positions(browser.get("/datasets/two-v1?q=11+%3Cb")) == [11]
    none = browser.get("/datasets/two-v1?q=%25").content.decode()
    assert "No examples here" in none and "with “<bdi>%</bdi>”" in none
    assert "<b>" not in none


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_queries(browser, count, django_assert_num_queries):
    make_dataset(count)
    browser.get("/datasets/sums-v1")
    with django_assert_num_queries(6):  # session, user, role, dataset, overlaps, examples
        assert len(browser.get("/datasets/sums-v1").context["examples"]) == count


def test_further_examples(browser):
    make_dataset(12, held_out=3)
    response = browser.get("/datasets/sums-v1?from=10")
    assert [example["item"].position for example in response.context["examples"]] == [10, 11]
    assert 'rel="next"' not in response.content.decode()
    assert "No examples here" in browser.get("/datasets/sums-v1?from=999999999").content.decode()


@pytest.mark.parametrize("start", ["x", "-1", "", "٣", "9" * 30, "%00"])
def test_a_start_that_makes_no_sense_is_the_beginning(browser, start):
    make_dataset(1)
    assert browser.get(f"/datasets/sums-v1?from={start}").context["start"] == 0


def test_whole_conversations_are_shown(browser):
    call = {"function": {"name": "add<b>", "arguments": {"a": 1}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi <b>"},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "<i>why"},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "Hello", "weight": 0},
        {"role": "assistant", "content": "Hello again"},
    ]
    (example,) = create_traces(
        items=[{"messages": messages, "tools": [{"name": "add<b>"}]}], by=None
    )
    create_dataset(
        name="talks", version="1", trace_ids=[example.id], description="<i>two</i>\nlines", by=None
    )
    dataset, own = (
        browser.get(page).content.decode()
        for page in ("/datasets/talks-1", f"/traces/{example.id}")
    )
    for text in (dataset, own):
        assert "Hi &lt;b&gt;" in text
        assert "Reasoning: <bdi>&lt;i&gt;why</bdi>" in text
        assert "add&lt;b&gt;({&quot;a&quot;:1})" in text
        assert text.count("not learnt") == 1
        assert '<dd data-testid="kind">conversation</dd>' in text
    assert "&quot;name&quot;: &quot;add&lt;b&gt;&quot;" in own  # the tools
    assert "&lt;i&gt;two&lt;/i&gt;<br>lines" in dataset


def test_a_pair_and_a_prompt_are_shown(browser):
    pair, prompt = create_traces(
        items=[
            {"prompt": "1+1?", "chosen": "2", "rejected": "three"},
            {"kind": "prompt", "prompt": "1+1?", "final_answer": "2"},
        ],
        by=None,
    )
    text = browser.get(f"/traces/{pair.id}").content.decode()
    assert text.index("Chosen") < text.index("Rejected") < text.index("three")
    text = browser.get(f"/traces/{prompt.id}").content.decode()
    assert "reference answer" in text


def test_an_empty_dataset(browser):
    make_dataset(0)
    assert "This dataset is empty" in browser.get("/datasets/sums-v1").content.decode()


@pytest.mark.parametrize(
    "key", ["none-v1", "..%2Fsums-v1", "sums-v1%00", "%ff", "x" * 3_000, "sums-v1/"]
)
def test_unknown_keys_are_404(browser, key):
    make_dataset(1)
    assert browser.get(f"/datasets/{key}").status_code == 404


def test_the_404_names_the_key(browser):
    response = browser.get("/datasets/none-v1")
    assert (response.status_code, "Dataset not found: none-v1" in response.content.decode()) == (
        404,
        True,
    )


# --- Traces ---------------------------------------------------------------------------------------


def prompts(response):
    return [trace.shown_prompt for trace in response.context["page"].rows]


def test_traces_newest_first_and_searched(browser):
    traces = make_traces(3)
    assert prompts(browser.get("/traces")) == ["2+1=?", "1+1=?", "0+1=?"]
    assert prompts(browser.get("/traces", {"q": "1+1"})) == ["1+1=?"]
    assert prompts(browser.get("/traces", {"q": str(traces[0].id)})) == ["0+1=?"]
    assert "No trace matches" in browser.get("/traces", {"q": "none"}).content.decode()


def test_pages_of_traces(browser, monkeypatch):
    monkeypatch.setattr("datasets.views.traces.PAGE", 2)
    make_traces(3)
    first = browser.get("/traces")
    second = browser.get("/traces", {"cursor": first.context["page"].next_cursor})
    assert prompts(first) + prompts(second) == ["2+1=?", "1+1=?", "0+1=?"]
    assert first.content.decode().count('data-testid="trace-row"') == 2


def test_no_traces_yet(browser):
    assert "No traces yet" in browser.get("/traces").content.decode()


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_queries_of_traces(browser, count, django_assert_num_queries):
    make_traces(count)
    browser.get("/traces")
    with django_assert_num_queries(4):  # session, user, role, traces
        assert len(prompts(browser.get("/traces"))) == count


def test_a_trace_and_the_datasets_that_use_it(browser, django_assert_num_queries):
    dataset = make_dataset(1)
    make_dataset(1, version="v2")
    trace = dataset.items.get().trace
    browser.get(f"/traces/{trace.id}")
    with django_assert_num_queries(5):  # session, user, role, trace, datasets
        response = browser.get(f"/traces/{trace.id}")
    text = response.content.decode()
    assert text.count('data-testid="step-row"') == 1
    assert '<pre class="block" data-testid="final-answer">1</pre>' in text
    assert 'href="/datasets/sums-v1"' in text
    assert 'href="/datasets/sums-v2"' in text
    assert "&quot;number&quot;: 0" in text


def test_a_trace_used_by_many_datasets(browser, monkeypatch):
    monkeypatch.setattr("datasets.views.traces.USES", 2)
    dataset = make_dataset(1)
    for number in range(2):
        make_dataset(1, version=str(number))
    text = browser.get(f"/traces/{dataset.items.get().trace_id}").content.decode()
    assert "and more" in text


@pytest.mark.parametrize("text", ["x", "0" * 32, "00000000-0000-4000-8000-000000000000"])
def test_unknown_traces_are_404(browser, text):
    assert browser.get(f"/traces/{text}").status_code == 404
