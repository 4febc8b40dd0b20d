"""GET …/logs and …/logs/{stream}: any part of a log, by bytes."""

import codecs
import os
import uuid
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.models import Run, RunStatus
from runs.queries import logs
from runs.services.reservations import run_folder
from runs.tests.launching import bytes_read
from runs.tests.leftovers import make_run

HOSTILE = (
    "<script>alert(1)</script>\x1b[31m\x1b]0;title\x07\0 héllo 🙂\r\n".encode()
    + b"\xff\xfe half \xf0\x9f"
)


def url(run: Run, rest: str = "") -> str:
    return f"/api/tunix/runs/{run.run_id}/logs{rest}"


def read(api: APIClient, run: Run, **query: object) -> dict:
    answer = api.get(url(run), query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def download(api: APIClient, run: Run, stream: str = "stdout", **headers: str):
    answer = api.get(
        url(run, f"/{stream}"),
        headers={key.replace("_", "-"): value for key, value in headers.items()},
    )
    return answer, answer.getvalue()


def test_a_part_says_where_the_next_one_begins(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": b"one\ntwo\nthree\n", "stderr.log": b"oops\n"})

    first = read(api, run, limit=8)
    rest = read(api, run, offset=first["next_offset"])

    assert first == {
        "stream": "stdout",
        "offset": 0,
        "next_offset": 8,
        "size": 14,
        "complete": False,
        "text": "one\ntwo\n",
    }
    assert (rest["text"], rest["next_offset"]) == ("three\n", 14)
    assert read(api, run, offset=14)["text"] == ""
    assert read(api, run, stream="stderr")["text"] == "oops\n"


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7])
def test_parts_put_together_are_the_whole_text(api: APIClient, user: User, limit: int):
    run = make_run(user, status=RunStatus.FAILED, files={"stdout.log": HOSTILE})

    text, offset = "", 0
    while offset < len(HOSTILE):
        part = read(api, run, offset=offset, limit=limit)
        assert part["next_offset"] > offset
        text, offset = text + part["text"], part["next_offset"]

    assert text == HOSTILE.decode("utf-8", "replace")


def test_half_a_character_waits_for_its_other_half(api: APIClient, user: User):
    smile = "🙂".encode()
    run = make_run(user, files={"stdout.log": b"a" + smile[:2]})
    first = read(api, run)
    assert (first["text"], first["next_offset"], first["size"]) == ("a", 1, 3)

    with (run_folder(run) / "stdout.log").open("ab") as file:
        file.write(smile[2:])

    assert read(api, run, offset=1)["text"] == "🙂"


def test_half_a_character_at_the_end_of_an_ended_run_is_shown(api: APIClient, user: User):
    run = make_run(user, status=RunStatus.FAILED, files={"stdout.log": b"a\xf0\x9f"})

    part = read(api, run)

    assert (part["text"], part["next_offset"], part["complete"]) == ("a\ufffd", 3, True)


def test_a_run_without_a_folder_has_an_empty_log(api: APIClient, user: User):
    run = make_run(user, status=RunStatus.PENDING)
    run_folder(run).rmdir()

    assert read(api, run) == {
        "stream": "stdout",
        "offset": 0,
        "next_offset": 0,
        "size": 0,
        "complete": False,
        "text": "",
    }
    assert read(api, run, tail_lines=5)["text"] == ""
    answer, content = download(api, run)
    assert (answer.status_code, content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("offset=15", "offset"),
        ("offset=-1", "offset"),
        ("offset=abc", "offset"),
        ("offset=99999999999999999999999", "offset"),
        ("offset=1.5", "offset"),
        ("limit=0", "limit"),
        ("limit=1048577", "limit"),
        ("tail_lines=0", "tail_lines"),
        ("tail_lines=10001", "tail_lines"),
        ("tail_lines=5&offset=3", "offset"),
        ("before=3", "before"),
        ("before=15&tail_lines=5", "before"),
        ("stream=../manifest.yaml", "stream"),
        ("colour=red", "colour"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    api: APIClient, user: User, query: str, parameter: str
):
    run = make_run(user, files={"stdout.log": b"one\ntwo\nthree\n"})

    answer = api.get(f"{url(run)}?{query}")

    assert answer.status_code == 422
    assert list(answer.json()) == ["detail", parameter]


def test_codes(api: APIClient, user: User):
    run = make_run(user)
    missing = uuid.uuid4()

    assert api.get(f"/api/tunix/runs/{missing}/logs").status_code == 404
    assert api.get("/api/tunix/runs/17/logs").status_code == 422
    assert api.get(url(run, "/stdin")).status_code == 404
    assert api.post(url(run)).status_code == 405
    assert APIClient(REMOTE_ADDR="192.0.2.1").get(url(run)).status_code == 401
    assert APIClient(REMOTE_ADDR="192.0.2.1").get(url(run, "/stdout")).status_code == 401


def test_a_link_in_place_of_a_log_is_not_followed(api: APIClient, user: User, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    run = make_run(user)
    (run_folder(run) / "stdout.log").symlink_to(secret)
    os.mkfifo(run_folder(run) / "stderr.log")

    for stream in ("stdout", "stderr"):
        assert api.get(url(run), {"stream": stream}).status_code == 404
        assert api.get(url(run, f"/{stream}")).status_code == 404


# --- the end of a log


def test_the_last_lines(api: APIClient, user: User):
    run = make_run(
        user, files={"stdout.log": b"".join(b"line %d\n" % number for number in range(1, 1001))}
    )

    last = read(api, run, tail_lines=3, line_numbers=1)
    before = read(api, run, tail_lines=2, before=last["offset"], line_numbers=1)

    assert (last["text"], last["first_line"]) == ("line 998\nline 999\nline 1000\n", 998)
    assert last["next_offset"] == last["size"]
    assert (before["text"], before["first_line"]) == ("line 996\nline 997\n", 996)
    assert before["next_offset"] == last["offset"]
    assert read(api, run, tail_lines=5000, line_numbers=1)["first_line"] == 1


def test_the_last_lines_of_a_log_that_ends_within_a_line(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": "one\ntwo\nthr🙂".encode()})

    assert read(api, run, tail_lines=2)["text"] == "two\nthr🙂"
    assert read(api, run, tail_lines=9)["offset"] == 0


def test_a_line_of_10_mb_is_cut_at_a_character(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": "é".encode() * 5_000_000})

    part = read(api, run, tail_lines=500, limit=1001)

    assert part["text"] == "é" * 500
    assert part["offset"] == 10_000_000 - 1000
    assert len(read(api, run, offset=0, limit=1 << 20)["text"]) == 1 << 19


def test_a_log_of_1_gb_opens_at_its_last_lines_at_once(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": b""})
    lines = b"".join(b"%d a line of the log\n" % number for number in range(10_000))
    with (run_folder(run) / "stdout.log").open("r+b") as file:
        file.truncate(1 << 30)  # sparse: only the end is on the disk
        file.seek(0, os.SEEK_END)
        file.write(lines)
    read(api, run, tail_lines=500)

    before = bytes_read()
    part = read(api, run, tail_lines=500)
    taken = bytes_read() - before

    assert part["text"].splitlines()[0] == "9500 a line of the log"
    assert len(part["text"].splitlines()) == 500
    assert taken < 1 << 20


def test_line_numbers_are_counted_on(tmp_path: Path):
    path = tmp_path / "log"
    path.write_bytes(b"x\n" * 3_000_000)

    assert logs.count_lines(path, 5_000_000) == 2_500_000
    assert logs.count_lines(path, 5_999_999) == 2_999_999
    assert logs.count_lines(path, 4) == 2
    assert logs.count_lines(path, 6_000_000) == 3_000_000
    assert logs.count_lines(tmp_path / "none", 4) is None
    assert logs.count_lines(path, logs.COUNTED_MAX_BYTES + 1) is None


# --- whole files


def test_a_whole_log_is_a_download_and_nothing_else(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": HOSTILE})

    answer, content = download(api, run, Accept="text/html")

    assert content == HOSTILE
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (
        answer.headers["Content-Disposition"]
        == f"attachment; filename*=UTF-8''{run.run_id}-stdout.log"
    )
    assert answer.headers["Content-Length"] == str(len(HOSTILE))


@pytest.mark.parametrize(
    ("asked", "status", "content", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-500", 206, b"56789", "bytes 5-9/10"),
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=1-2,4-5", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=9999999999999999999999-", 200, b"0123456789", None),
    ],
)
def test_ranges(
    api: APIClient,
    user: User,
    asked: str,
    status: int,
    content: bytes | None,
    content_range: str | None,
):
    run = make_run(user, files={"stderr.log": b"0123456789"})

    answer, received = download(api, run, "stderr", Range=asked)

    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == content_range
    if content is not None:
        assert received == content
        assert answer.headers["Content-Length"] == str(len(content))


def test_a_range_of_another_state_of_the_file_is_the_whole(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": b"0123456789"})
    answer, _ = download(api, run)
    same, _ = download(api, run, Range="bytes=2-4", If_Range=answer.headers["ETag"])
    other, content = download(api, run, Range="bytes=2-4", If_Range='"another"')

    assert same.status_code == 206
    assert (other.status_code, content) == (200, b"0123456789")


def test_a_log_that_grows_while_it_is_sent_has_the_promised_length(api: APIClient, user: User):
    run = make_run(user, files={"stdout.log": b"x" * 1000})
    answer = api.get(url(run, "/stdout"))
    with (run_folder(run) / "stdout.log").open("ab") as file:
        file.write(b"y" * 1000)

    assert answer.getvalue() == b"x" * 1000


def test_decode_agrees_with_the_codec():
    for data in (HOSTILE, "é🙂".encode(), b"\xe2\x82", b"\xed\xa0\x80", b""):
        assert logs.decode(data, final=True) == (codecs.decode(data, "utf-8", "replace"), len(data))
