"""The index of words: what a search finds, and that the index follows all that is stored, erased
and removed."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from datasets.examples.words import SearchWord, distinct_words, search_words
from datasets.imports import importing
from datasets.imports.importers import ImportRequest
from datasets.imports.supervision import WordIndexing
from datasets.models import Import, Trace, TraceWords, WordBacklog
from datasets.services.curation import archive_trace
from datasets.services.erasing import erase_contents, remove_old_versions
from datasets.services.traces import create_traces
from datasets.storage import storing, word_index
from datasets.storage.word_index import ready_backlogs, waiting_count, work_off
from datasets.tests.factory import import_upload, jsonl_file, make_traces, trace_body, work_on
from tunixrt.tests.cpu import run_within_cpu_seconds

PATIENCE = 300.0
IS_SQLITE = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")
ON_SQLITE = pytest.mark.skipif(not IS_SQLITE, reason="of SQLite")
ON_POSTGRESQL = pytest.mark.skipif(IS_SQLITE, reason="of PostgreSQL")


def create(*texts: str) -> list[Trace]:
    return create_traces(items=[{"prompt": text, "final_answer": "yes"} for text in texts], by=None)


def found(words: str) -> list[uuid.UUID]:
    rows = word_index.find(search_words(words), before=None, limit=100, offset=0)
    return [trace_id for _, trace_id in rows]


def prompts(words: str) -> list[str]:
    traces = Trace.objects.in_bulk(found(words))
    return [traces[trace_id].prompt for trace_id in found(words)]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is stored becomes a backlog, which is worked on two examples at a time."""
    monkeypatch.setattr(word_index, "AT_ONCE", 0)
    monkeypatch.setattr(word_index, "BATCH", 2)


# --- Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, the CAT!", ["the", "cat"]),
        (
            "well-known foo/bar a_b 3.5 x@y.org",
            ["well", "known", "foo", "bar", "a", "b", "3", "5", "x", "y", "org"],
        ),
        ("Straße ﬁnd Ｆｕｌｌ", ["strasse", "find", "full"]),
        ("cafe\u0301 हिन्दी", ["café", "हिन्दी"]),
        ("北京大", ["北", "京", "大", "北京", "京大"]),
        ("GPU服务", ["gpu", "服", "务", "服务"]),
        ("x" * 100, ["x" * 40]),
        ("é" * 100, ["é" * 40]),
        ("\x00 \ud800 \u200b ؟ '\":*&|!()\\", []),
        ("", []),
    ],
)
def test_the_words_of_a_text(text: str, words: list[str]) -> None:
    assert distinct_words(text) == words


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("add* two", [SearchWord("add", is_prefix=True), SearchWord("two")]),
        ("well-kno*", [SearchWord("well"), SearchWord("kno", is_prefix=True)]),
        ("two TWO", [SearchWord("two")]),
        ("* ** -* a*b", [SearchWord("a"), SearchWord("b")]),
        ("京* 北京*", [SearchWord("京"), SearchWord("北"), SearchWord("北京")]),
        ('"a OR b" NEAR(c)', [SearchWord(w) for w in ("a", "or", "b", "near", "c")]),
    ],
)
def test_what_is_asked_for(asked: str, words: list[SearchWord]) -> None:
    assert search_words(asked) == words


@pytest.mark.parametrize("asked", ["", "?!", "* -*", "ad*", "two x*", "\x00", "؟"])
def test_what_asks_for_nothing_or_too_much(asked: str) -> None:
    with pytest.raises(ValueError, match=r"^Give at least"):
        search_words(asked)


def test_no_text_takes_more_than_linear_time() -> None:
    run_within_cpu_seconds(
        20,
        "from datasets.examples.words import distinct_words\n"
        "for text in ('\\u0301' * 300_000, '京' * 300_000, 'é ' * 300_000, 'x' * 3_000_000):\n"
        "    distinct_words(text)",
    )


# --- What is found --------------------------------------------------------------------------------


@pytest.mark.django_db
def test_all_words_in_any_order_the_last_stored_first() -> None:
    create("Add two apples.")
    create("two plus TWO; apples?", "Pears: two.")
    assert prompts("two") == ["Pears: two.", "two plus TWO; apples?", "Add two apples."]
    assert prompts("Apples TWO") == ["two plus TWO; apples?", "Add two apples."]
    assert prompts("apple") == []
    assert prompts("apple* add*") == ["Add two apples."]
    assert prompts("apples pears") == []


@pytest.mark.django_db
@pytest.mark.parametrize(
    "example",
    [
        {
            "prompt": "p",
            "steps": [{"i": 0, "type": "t", "content": "Zebra"}],
            "final_answer": "a",
        },
        {"prompt": "p", "final_answer": "zebra"},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": "a", "reasoning": "a\nzebra"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "u"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"type": "function", "function": {"name": "f", "arguments": {"x": "zebra"}}}
                    ],
                },
            ]
        },
        {"prompt": "p", "chosen": "c", "rejected": "a zebra"},
        {"kind": "prompt", "prompt": "zebra?", "final_answer": "4"},
        {"kind": "prompt", "prompt": "p", "final_answer": "zebra"},
    ],
)
def test_the_text_of_every_kind_is_searched_and_nothing_else(example: dict[str, Any]) -> None:
    (trace,) = create_traces(items=[{**example, "meta": {"unicorn": "unicorn"}}], by=None)
    assert found("zebra") == [trace.pk]
    for word in ("unicorn", "role", "content", "nzebra"):
        assert found(word) == []


@pytest.mark.django_db
def test_an_example_without_end_is_searched_in_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = " ".join(f"{number:040d}" for number in range(20_000))  # PostgreSQL has limits
    create(f"first {text} last")
    assert len(found("first")) == 1
    assert found("last") == []


@pytest.mark.django_db
@pytest.mark.parametrize(
    "words",
    [
        '"',
        "'",
        'a" OR "b',
        "a' | 'b",
        "two*",
        "words:two",
        "NEAR(two apples, 2)",
        "two AND NOT apples",
        "^two",
        "-two",
        "{words} : two",
        "two & apples",
        "two <-> apples",
        "two:*",
        "\\",
        "two\\",
        "%",
        "\ud800two",
        "؟ ",
        "x" * 256,
        " ".join("x" * 128),
        " ".join(chr(0x4E00 + number) for number in range(128)),
        "京" * 256,
    ],
)
def test_no_words_are_a_query_language(api: APIClient, words: str) -> None:
    create("two apples")
    response = api.get("/api/traces", {"words": words.encode("utf-8", "surrogatepass")})
    wanted: set[str] = set()
    with suppress(ValueError):
        wanted = {word.text for word in search_words(words)}
    if not wanted:
        assert response.status_code == 422
        assert "Give at least" in response.json()["words"][0]
        return
    assert response.status_code == 200
    assert len(response.json()["data"]) == (wanted <= {"two", "apples", "yes"})


@pytest.mark.django_db
def test_words_that_are_refused(api: APIClient) -> None:
    for query, says in (
        ({"words": "?!"}, "Give at least one letter or digit."),
        ({"words": "a", "offset": 10_001}, "at most 10,000 with words"),
        ({"words": "ab*"}, "Give at least 3 letters or digits before *."),
        ({"words": "a", "q": "a"}, "Give one of q and words."),
        ({"words": "x " * 5_000}, "must have at most 256 characters."),
        ({"words": "a\x00b"}, ""),
    ):
        response = api.get("/api/traces", query)
        assert response.status_code == 422
        assert says in response.json().get("words", response.json().get("offset"))[0]
    assert api.get("/api/traces", {"words": ""}).status_code == 200


@pytest.mark.django_db
def test_pages_of_the_api(api: APIClient) -> None:
    create(*(f"two {number}" for number in range(7)))
    seen: list[str] = []
    query: dict[str, Any] = {"words": "two", "limit": 3}
    for new, count in enumerate((3, 3, 1)):
        page = api.get("/api/traces", query).json()
        seen += [trace["prompt"] for trace in page["data"]]
        assert len(page["data"]) == count
        create(f"two new {new}")  # in front: no page repeats or skips
        query["cursor"] = page["pagination"]["next_cursor"]
    assert seen == [f"two {number}" for number in range(6, -1, -1)]
    assert query["cursor"] is None
    third = api.get("/api/traces", {"words": "two", "limit": 3, "offset": 3}).json()
    assert [trace["prompt"] for trace in third["data"]] == ["two 6", "two 5", "two 4"]


@pytest.mark.django_db
@pytest.mark.parametrize("window", [1, 3, 100])
def test_what_is_found_does_not_depend_on_how_far_a_search_looks(
    monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(word_index, "WINDOW", window)
    create(*(f"{'two' if number % 5 == 0 else 'one'} {number}" for number in range(30)))
    TraceWords.objects.filter(trace__prompt="one 14").delete()  # numbers have gaps
    asked = search_words("two")
    every = word_index.find(asked, before=None, limit=100, offset=0)
    assert prompts("two") == [f"two {number}" for number in range(25, -1, -5)]
    for offset in range(7):
        for limit in (1, 2, 100):
            rows = word_index.find(asked, before=None, limit=limit, offset=offset)
            assert rows == every[offset : offset + limit]
    for number, _ in every:
        rows = word_index.find(asked, before=number, limit=2, offset=0)
        assert rows == [row for row in every if row[0] < number][:2]
    assert word_index.find(asked, before=0, limit=2, offset=0) == []
    assert word_index.find(asked, before=2**62, limit=100, offset=0) == every


@pytest.mark.django_db
def test_the_archive_is_searched_apart(api: APIClient, client: Client, user: User) -> None:
    client.force_login(user)
    traces = create("two 1", "two 2", "two 3")
    archive_trace(trace=traces[1], by=user)
    for query, expected in (
        ({"words": "two"}, ["two 3", "two 1"]),
        ({"words": "two", "archived": "true"}, ["two 2"]),
    ):
        page = api.get("/api/traces", query).json()
        assert [trace["prompt"] for trace in page["data"]] == expected
        shown = client.get("/traces", query).context["page"].rows
        assert [trace.shown_prompt for trace in shown] == expected


@pytest.mark.django_db
def test_a_cursor_of_another_list_is_refused(api: APIClient) -> None:
    create("two 1", "two 2")
    cursors = [
        api.get("/api/traces", query).json()["pagination"]["next_cursor"]
        for query in ({"limit": 1}, {"limit": 1, "words": "two"})
    ]
    for query, cursor in zip(({"words": "two"}, {}), cursors, strict=True):
        response = api.get("/api/traces", {**query, "cursor": cursor})
        assert response.status_code == 422
        assert "cursor" in response.json()


@pytest.mark.django_db
def test_the_page(client: Client, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.views.traces.PAGE", 2)
    client.force_login(user)
    traces = create("two 1", "two 2", "two <b>3</b>")
    first = client.get("/traces?words=TWO")
    text = first.content.decode()
    assert [row.prompt for row in first.context["page"].rows] == ["two <b>3</b>", "two 2"]
    assert "two &lt;b&gt;3" in text
    assert 'href="?q=TWO"' in text
    cursor = first.context["page"].next_cursor
    assert f'href="?words=TWO&amp;cursor={cursor}"' in text
    second = client.get(f"/traces?words=TWO&cursor={cursor}")
    assert [row.prompt for row in second.context["page"].rows] == ["two 1"]
    assert 'href="?words=TWO"' in second.content.decode()
    by_id = client.get(f"/traces?words={traces[0].pk}")
    assert [row.prompt for row in by_id.context["page"].rows] == ["two 1"]
    by_text = client.get("/traces?q=WO 2")
    assert [row.prompt for row in by_text.context["page"].rows] == ["two 2"]
    assert 'href="?words=WO%202"' in by_text.content.decode()
    for query in ("words=%00", "words=?", "words=zebra", "words=two&cursor=x", "words=a&q=b"):
        assert client.get(f"/traces?{query}").status_code == 200


@pytest.mark.django_db
def test_the_page_reads_the_beginnings_of_large_examples(client: Client, user: User) -> None:
    client.force_login(user)
    text = "word " * 20_000
    steps = [{"i": number, "type": "t", "content": text} for number in range(3)]
    create_traces(
        items=[
            {"prompt": text, "steps": steps, "final_answer": text},
            {
                "messages": [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": "a"},
                ]
            },
        ],
        by=None,
    )
    for query in ("", "?words=word", "?q=word"):
        response = client.get(f"/traces{query}")
        rows = response.context["page"].rows
        assert [row.step_count for row in rows] == [0, 3]
        assert len(response.content) < 20_000
        for row in rows:
            assert {
                "prompt",
                "steps",
                "final_answer",
                "content",
                "meta",
            } <= row.get_deferred_fields()


# --- The index follows ----------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_same_example_is_found_once() -> None:
    create("two 1")
    create("two 1", "two 2", "two 1")
    assert prompts("two") == ["two 2", "two 1"]


@pytest.mark.django_db
def test_many_examples_are_indexed_later_and_that_is_said(
    later: None, api: APIClient, client: Client, user: User
) -> None:
    client.force_login(user)
    create(*(f"two {number}" for number in range(5)))
    page = api.get("/api/traces", {"words": "two"}).json()
    assert (page["data"], page["not_indexed"]) == ([], 5)
    assert api.get("/api/traces").json()["not_indexed"] is None
    assert "About 5 examples" in client.get("/traces?words=two").content.decode()
    assert work_off() == 5
    assert prompts("two") == [f"two {number}" for number in range(4, -1, -1)]
    assert not WordBacklog.objects.exists()
    assert api.get("/api/traces", {"words": "two"}).json()["not_indexed"] == 0
    assert "not-indexed" not in client.get("/traces?words=two").content.decode()


@pytest.mark.django_db
def test_an_import_is_indexed_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    import_upload(file=jsonl_file(*map(trace_body, range(3))), name="a", version="v1")
    assert len(found("and one")) == 3
    monkeypatch.setattr(importing, "BATCH", 2)  # stored in several transactions from there on
    monkeypatch.setattr(storing, "BATCH", 2)
    monkeypatch.setattr(word_index, "AT_ONCE", 2)
    import_upload(file=jsonl_file(*map(trace_body, range(2, 8))), name="b", version="v1")
    assert len(found("and one")) == 3
    call_command("index_words")
    assert len(found("and one")) == 8


@pytest.mark.django_db(transaction=True)
@ON_POSTGRESQL
def test_a_rebuilt_index_has_no_word_of_an_erased_example() -> None:
    def is_in_pages() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
            cursor.execute(
                "SELECT position('zyzzyva'::bytea IN"
                " pg_read_binary_file(pg_relation_filepath('ix_tracewords_words')))"
            )
            return bool(cursor.fetchone()[0])

    gone, _ = create("a zyzzyva", "a weevil")
    erase_contents([gone.pk])
    assert remove_old_versions() == ""
    assert is_in_pages()
    with connection.cursor() as cursor:  # as an interrupted one leaves it
        cursor.execute("CREATE INDEX ix_tracewords_words_ccnew ON datasets_tracewords (number)")
        cursor.execute(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid = 'ix_tracewords_words_ccnew'::regclass"
        )

    call_command("index_words", "--rebuild")

    assert not is_in_pages()
    assert prompts("weevil") == ["a weevil"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'ix_tracewords_words%'")
        assert cursor.fetchone() == (1,)


def submit_six(by: User) -> Import:
    """An import of six examples, which waits for its process."""
    return importing.submit_file(
        file=jsonl_file(*map(trace_body, range(6))),
        request=ImportRequest(name="sums", version="v1"),
        file_name="sums.jsonl",
        by=by,
    )


@pytest.mark.django_db
def test_examples_of_an_import_under_way_wait(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "BATCH", 2)
    row = submit_six(user)
    note = importing._note

    def stop_after_two(row: Import, **progress: Any) -> None:
        note(row, **progress)
        if progress.get("examples_stored", 0) > 2:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(importing, "_note", stop_after_two)
        with pytest.raises(SystemExit):
            work_on(row)
    assert (WordBacklog.objects.get().pk, WordBacklog.objects.get().left) == (row.pk, 2)
    assert not ready_backlogs().exists()
    assert work_off() == 0
    assert work_on(row).state == "completed"
    work_off()
    assert len(found("and one")) == 6


@pytest.mark.django_db
def test_a_failed_import_leaves_nothing_in_the_index(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "BATCH", 2)
    kept = make_traces(1)
    row = submit_six(user)
    note = importing._note

    def cancel_after_two(row: Import, **progress: Any) -> None:
        note(row, **progress)
        if progress.get("examples_stored") == 2:
            # another writer has indexed what is there
            word_index.index_stored(
                since=timezone.now() - timedelta(days=1), until=timezone.now(), count=1
            )
        if progress.get("examples_stored", 0) > 2:
            raise importing.Cancelled

    with monkeypatch.context() as patch:
        patch.setattr(importing, "_note", cancel_after_two)
        assert work_on(row).state == "cancelled"
    work_off()
    assert found("and one") == [trace.pk for trace in kept]
    assert TraceWords.objects.count() == Trace.objects.count() == 1


@pytest.mark.django_db
def test_what_is_interrupted_is_continued(later: None, monkeypatch: pytest.MonkeyPatch) -> None:
    create(*(f"two {number}" for number in range(5)))
    insert, calls = word_index._insert, []

    def insert_once(rows: Any) -> None:
        if calls:
            raise SystemExit
        calls.append(rows)
        insert(rows)

    with monkeypatch.context() as patch:
        patch.setattr(word_index, "_insert", insert_once)
        with pytest.raises(SystemExit):
            work_off()
    assert (len(found("two")), waiting_count()) == (2, 3)
    work_off()
    assert prompts("two") == [f"two {number}" for number in range(4, -1, -1)]


@pytest.mark.django_db
def test_two_processes_index_an_example_once(later: None, monkeypatch: pytest.MonkeyPatch) -> None:
    create(*(f"two {number}" for number in range(5)))
    read = word_index._rows_behind

    def another_is_faster(backlog: WordBacklog) -> Iterator[Any]:
        rows = list(read(backlog))
        monkeypatch.setattr(word_index, "_rows_behind", read)
        work_off()
        return iter(rows)

    monkeypatch.setattr(word_index, "_rows_behind", another_is_faster)
    work_off()
    assert len(found("two")) == TraceWords.objects.count() == 5


@ON_SQLITE
@pytest.mark.django_db
def test_the_end_of_a_backlog_costs_what_its_beginning_costs() -> None:
    """Counted in steps of SQLite's virtual machine."""
    start = timezone.now()
    traces = [
        Trace(
            prompt=f"two {number}",
            content_hash=f"{number:064d}",
            created_at=start + timedelta(seconds=number),
        )
        for number in range(3_000)
    ]
    Trace.objects.bulk_create(traces)

    def steps(after: Trace | None) -> int:
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        backlog = WordBacklog(since=start, until=traces[-1].created_at, left=0)
        if after is not None:
            backlog.after_at, backlog.after_id = after.created_at, after.pk
        connection.connection.set_progress_handler(step, 1)
        try:
            next(word_index._rows_behind(backlog))
        finally:
            connection.connection.set_progress_handler(None, 0)
        return count

    assert steps(traces[2_900]) < 2 * steps(None)


# --- Erasing --------------------------------------------------------------------------------------


def bytes_of_index() -> bytes:
    """All that the tables of the index hold."""
    held = b""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith((word_index.FTS_TABLE, "datasets_tracewords")):
                cursor.execute(f"SELECT * FROM {table}")
                for row in cursor.fetchall():
                    held += b" ".join(
                        bytes(value) if isinstance(value, bytes) else str(value).encode()
                        for value in row
                    )
    return held


@pytest.mark.django_db
def test_erased_words_are_gone() -> None:
    secret, *_ = create("Zaphod's secret", *(f"no secret {number}" for number in range(50)))
    for number in range(30):  # segments of their own
        create(f"later {number}")
    assert b"zaphod" in bytes_of_index()
    erase_contents([secret.pk])
    assert found("zaphod") == []
    assert len(found("secret")) == 50
    assert len(found("later")) == 30
    assert b"zaphod" not in bytes_of_index()


@ON_SQLITE
def test_erased_content_is_nowhere_in_the_file(transactional_db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA secure_delete")
        assert cursor.fetchone() == (1,)  # whatever the build of SQLite does by itself
    secret, *_ = create("zaphod " * 5_000, *(f"other {number}" for number in range(50)))
    for number in range(30):  # the index is merged before
        create(f"later {number}")
    erase_contents([secret.pk])
    assert remove_old_versions() == ""
    assert b"zaphod" not in Path(connection.settings_dict["NAME"]).read_bytes()


@pytest.mark.django_db
def test_what_was_erased_is_not_indexed_later(later: None) -> None:
    secret, *_ = create("Zaphod's secret", "secret 2")
    erase_contents([secret.pk])
    work_off()
    assert prompts("secret") == ["secret 2"]


@pytest.mark.django_db
def test_what_was_read_before_it_was_erased_is_not_indexed(
    later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, *_ = create("Zaphod's secret", "secret 2")
    read = word_index._rows_behind

    def erased_meanwhile(backlog: WordBacklog) -> Iterator[Any]:
        rows = list(read(backlog))
        erase_contents([secret.pk])
        return iter(rows)

    monkeypatch.setattr(word_index, "_rows_behind", erased_meanwhile)
    work_off()
    assert prompts("secret") == ["secret 2"]
    assert b"zaphod" not in bytes_of_index()


@pytest.mark.skipif(
    settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"), reason="of PostgreSQL"
)
def test_an_erasure_locks_backlogs_before_examples(transactional_db: None, later: None) -> None:
    """Else one that works on a backlog, and indexes the example, waits for it in a circle."""
    (trace,) = create("two 1")

    def erase() -> None:
        try:
            erase_contents([trace.pk])
        finally:
            connection.close()

    other = connection.copy()
    with ThreadPoolExecutor(1) as executor, other.cursor() as cursor:
        other.set_autocommit(False)
        cursor.execute("SELECT 1 FROM datasets_wordbacklog FOR UPDATE")
        erasing = executor.submit(erase)
        while not erasing.done():  # it stays where it is until it gets the lock
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                break
        try:
            cursor.execute(
                "SELECT 1 FROM datasets_trace WHERE id = %s FOR UPDATE NOWAIT", [trace.pk]
            )
        finally:
            other.rollback()
            other.close()
        erasing.result(PATIENCE)


# --- On its own -----------------------------------------------------------------------------------


@pytest.fixture
def indexing(transactional_db: None) -> Iterator[WordIndexing]:
    indexing = WordIndexing()
    yield indexing
    if indexing._process is not None:
        indexing._process.kill()
        indexing._process.wait()


def test_a_process_works_on_the_backlog(indexing: WordIndexing, later: None) -> None:
    indexing.keep()
    assert indexing._process is None  # nothing waits
    create(*(f"two {number}" for number in range(5)))
    indexing.keep()
    process = indexing._process
    assert process is not None
    assert process.wait(PATIENCE) == 0
    assert len(found("two")) == 5
    indexing.keep()
    assert indexing._process is None


def test_a_process_that_fails_is_not_started_at_once(
    indexing: WordIndexing, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    create("two 1")
    monkeypatch.setenv("DATABASE_URL", "neither")
    indexing.keep()
    assert indexing._process is not None
    assert indexing._process.wait(PATIENCE) != 0
    indexing.keep()
    assert indexing._process is None
    indexing._due = 0.0
    monkeypatch.undo()
    indexing.keep()
    assert indexing._process is not None


@ON_SQLITE
def test_the_index_stands_when_rows_move(transactional_db: None) -> None:
    """VACUUM gives rows new implicit numbers where none is a column."""
    first, second, third = create("one", "two", "three")
    TraceWords.objects.filter(trace=second).delete()
    Trace.objects.filter(pk=second.pk).delete()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
        cursor.execute(
            f"INSERT INTO {word_index.FTS_TABLE} ({word_index.FTS_TABLE}, rank)"
            " VALUES ('integrity-check', 1)"
        )
    assert (found("one"), found("two"), found("three")) == ([first.pk], [], [third.pk])
