"""GET …/logs?search=: the lines of a log that hold a text, a bounded part of it at a time."""

import re
import uuid
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from runs.models import Run, RunStatus
from runs.queries import log_search as search
from runs.queries.log_search import search_log
from runs.services.reservations import run_folder
from runs.tests.leftovers import make_run
from tunixrt.tests.cpu import run_within_cpu_seconds


def ask(api: APIClient, run: Run, **query: object) -> dict:
    answer = api.get(f"/api/tunix/runs/{run.pk}/logs", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def everything(api: APIClient, run: Run, **query: object) -> list[dict]:
    """All matches, asked for as a client does: on and on from next_offset."""
    matches, offset = [], 0
    for _ in range(1000):
        part = ask(api, run, offset=offset, line_numbers=1, **query)
        assert part["offset"] == offset
        matches += part["matches"]
        if part["next_offset"] == part["size"]:
            return matches
        assert part["next_offset"] > offset
        offset = part["next_offset"]
    raise AssertionError("never came to the end")


def test_lines_with_the_text_and_where_they_are(api: APIClient, user: User):
    run = make_run(
        user,
        status=RunStatus.FAILED,
        files={"stdout.log": b"one\ntwo Loss\nthree loss loss\nfour\n", "stderr.log": b"loss\n"},
    )

    assert ask(api, run, search="loss", line_numbers=1) == {
        "stream": "stdout",
        "search": "loss",
        "offset": 0,
        "next_offset": 34,
        "size": 34,
        "complete": True,
        "matches": [
            {"offset": 4, "line": 2, "text": "two Loss"},
            {"offset": 13, "line": 3, "text": "three loss loss"},
        ],
    }
    assert [match["line"] for match in ask(api, run, search="loss", offset=13)["matches"]] == [None]
    assert [
        match["line"]
        for match in ask(api, run, search="loss", offset=13, line_numbers=1)["matches"]
    ] == [3]
    assert ask(api, run, search="loss", stream="stderr")["size"] == 5
    assert ask(api, run, search="nowhere")["matches"] == []


def test_many_matches_come_in_parts(api: APIClient, user: User):
    lines = [f"line {number} {'hit' if number % 3 == 0 else ''}" for number in range(100)]
    run = make_run(user, files={"stdout.log": "\n".join(lines).encode()})

    first = ask(api, run, search="hit", matches=5)
    assert len(first["matches"]) == 5
    assert first["next_offset"] == len("\n".join(lines[:15])) + 1
    found = everything(api, run, search="hit", matches=5)
    assert [match["text"] for match in found] == [line for line in lines if "hit" in line]
    assert [match["line"] for match in found] == list(range(1, 101, 3))


def test_hostile_content_is_found_as_it_is(api: APIClient, user: User):
    log = (
        b"<script>alert(1)</script>\n\x1b[31mst\x1b[1;32mep\x1b[0m 5\n\xff\xfe half"
        b" \xf0\x9f\nh\xc3\xa9llo\0 there\n"
    )
    run = make_run(user, files={"stdout.log": log})

    assert [match["text"] for match in everything(api, run, search="<script>")] == [
        "<script>alert(1)</script>"
    ]
    (coloured,) = everything(api, run, search="STEP")
    assert (coloured["line"], coloured["offset"]) == (2, 26)
    assert [match["line"] for match in everything(api, run, search="half")] == [3]
    assert [match["line"] for match in everything(api, run, search="héllo")] == [4]


def test_a_long_line_is_shown_around_its_first_match(api: APIClient, user: User):
    run = make_run(
        user,
        files={
            "stdout.log": (
                b"start\n"
                + b"x" * 3_000_000
                + b"NEEDLE"
                + b"y" * 3_000_000
                + b"needle\nlast needle\n"
            )
        },
    )

    long, last = everything(api, run, search="needle")

    assert (long["line"], last["line"], last["text"]) == (2, 3, "last needle")
    assert "NEEDLE" in long["text"] and len(long["text"]) == search.SHOWN_BYTES
    assert long["offset"] == 6 + 3_000_000 - search.SHOWN_BEFORE


def test_text_across_the_blocks_that_are_read_is_found(
    api: APIClient, user: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "_BLOCK", 1 << 17)
    for shift in range(-8, 1):
        run = make_run(
            user, files={"stdout.log": b"x" * ((1 << 17) + shift) + b"needle" + b"z" * 300_000}
        )
        assert [match["line"] for match in everything(api, run, search="needle")] == [1], shift


@settings(max_examples=60)
@given(
    data=st.lists(
        st.sampled_from([b"ab", b"a", b"b", b"\n", b"\x1b[31m", b"A", b"ccccccc", b"\r"]),
        max_size=60,
    ),
    limit=st.integers(1, 4),
    scanned=st.integers(8, 40),
)
def test_finds_every_line_once_however_it_is_cut(tmp_path_factory, data, limit, scanned):
    content = b"".join(data)
    path = tmp_path_factory.mktemp("log") / "stdout.log"
    path.write_bytes(content)
    expected, start = [], 0
    for number, line in enumerate(content.split(b"\n")):
        if b"ab" in re.sub(rb"\x1b\[[0-9;]*m", b"", line).lower():
            expected.append((number, start))
        start += len(line) + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_BLOCK", 24)
        patch.setattr(search, "_OVERLAP", 20)
        patch.setattr(search, "SCANNED_MAX_BYTES", scanned + 24)
        found, offset, lines = {}, 0, 0
        while True:
            part = search_log(path, "ab", offset=offset, limit=limit)
            for match in part.matches:
                found.setdefault(lines + match.line, match)
            lines += content.count(b"\n", offset, part.next_offset)
            if part.next_offset == part.size:
                break
            assert part.next_offset > offset
            offset = part.next_offset

    assert sorted(found) == [number for number, _ in expected]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"search": ""}, "search"),
        ({"search": "x" * 257}, "search"),
        ({"search": "a\nb"}, "search"),
        ({"search": "a\0"}, "search"),
        ({"search": "a", "offset": "-1"}, "offset"),
        ({"search": "a", "offset": "99"}, "offset"),
        ({"search": "a", "offset": "many"}, "offset"),
        ({"search": "a", "matches": "0"}, "matches"),
        ({"search": "a", "matches": "501"}, "matches"),
        ({"search": "a", "stream": "etc"}, "stream"),
        ({"search": "a", "tail_lines": "5"}, "tail_lines"),
    ],
)
def test_a_query_that_cannot_be_read(api: APIClient, user: User, query: dict[str, str], field: str):
    run = make_run(user, files={"stdout.log": b"abc\n"})
    answer = api.get(f"/api/tunix/runs/{run.pk}/logs", query)
    assert answer.status_code == 422
    assert field in answer.json()


def test_no_log_yet_no_log_at_all_and_no_run(api: APIClient, user: User):
    run = make_run(user)
    assert ask(api, run, search="a")["size"] == 0
    folder = run_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stdout.log").symlink_to("/etc/passwd")
    assert api.get(f"/api/tunix/runs/{run.pk}/logs?search=root").status_code == 404
    assert api.get(f"/api/tunix/runs/{uuid.uuid4()}/logs?search=root").status_code == 404


def test_one_request_reads_a_bounded_part_of_a_large_log(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": b""})
    line = b"step 1 loss 2.3456 learning rate 1e-4 of a log that goes on and on\n"
    with open(run_folder(run) / "stdout.log", "wb") as file:
        for _ in range(100):
            file.write(line * 15_000)  # 100 MB
        file.write(b"the needle\n")

    first = ask(api, run, search="needle")
    assert first["matches"] == []
    assert search.SCANNED_MAX_BYTES - len(line) <= first["next_offset"] <= search.SCANNED_MAX_BYTES
    (match,) = everything(api, run, search="needle")
    assert (match["line"], match["text"]) == (1_500_001, "the needle")


HOSTILE = {
    "colours only, a plain needle": (b"\x1b[31m" * 20_000, "a" * 256),
    "colours, a needle of colours": (b"\x1b[31m" * 20_000 + b"a", "\x1b[31m" * 50),
    "a colour that never ends": (b"\x1b[" + b"1;" * 200_000, "1;" * 100 + "m"),
    "a colour between all characters": (b"a\x1b[0m" * 100_000, "a" * 255 + "b"),
    "one character": (b"a" * 2_000_000 + b"\x1b[0m", "a" * 255 + "b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_log_and_needle_take_linear_time(tmp_path: Path, name: str):
    log, needle = HOSTILE[name]
    path = tmp_path / "stdout.log"
    path.write_bytes(log)

    found = run_within_cpu_seconds(
        30,
        f"""
from pathlib import Path
from runs.queries.log_search import search_log
print(len(search_log(Path({str(path)!r}), {needle!r}, offset=0, limit=500).matches))
""",
    )

    assert found.strip() in ("0", "1")


def test_colours_in_the_needle_are_ignored_and_a_needle_of_colours_is_found(
    api: APIClient, user: User
):
    run = make_run(user, files={"stdout.log": b"plain\n\x1b[31mred\x1b[0m text\n"})

    assert [match["line"] for match in everything(api, run, search="\x1b[1mred\x1b[0m text")] == [2]
    assert [match["line"] for match in everything(api, run, search="\x1b[31m")] == [2]
