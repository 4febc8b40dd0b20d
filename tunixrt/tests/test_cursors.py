"""Cursors of lists: what they hold, and which rows lie behind one."""

import base64
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.contrib.auth.models import User

from tunixrt.cursors import Cursor, decode_number_cursor, decode_uuid_cursor

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("cursor", "decode"),
    [
        (Cursor(NOON + timedelta(microseconds=7), uuid.uuid4()), decode_uuid_cursor),
        (Cursor(NOON, 10**18 - 1), decode_number_cursor),
    ],
)
def test_a_cursor_is_the_same_after_a_round_trip(
    cursor: Cursor[Any], decode: Callable[[str], Cursor[Any]]
):
    assert decode(cursor.encode()) == cursor


def test_a_moment_of_another_zone_is_the_same_moment():
    east = NOON.astimezone(timezone(timedelta(hours=9)))

    assert decode_number_cursor(Cursor(east, 1).encode()) == Cursor(NOON, 1)


@pytest.mark.parametrize("decode", [decode_uuid_cursor, decode_number_cursor])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "é",
        "a" * 300,
        encoded("2026-03-01T12:00:00+00:00"),
        encoded("2026-03-01T12:00:00+00:00|"),
        encoded("2026-03-01T12:00:00+00:00|1|2"),
        encoded("2026-03-01T12:00:00+00:00|-1"),
        encoded("2026-03-01T12:00:00+00:00|１"),
        encoded(f"2026-03-01T12:00:00+00:00|{10**18}"),
        encoded("2026-03-01T12:00:00|1"),
        encoded(f"2026-03-01T12:00:00|{uuid.UUID(int=1)}"),
        encoded("0001-01-01T00:00:00+14:00|1"),
        encoded(f"9999-12-31T23:59:59-14:00|{uuid.UUID(int=1)}"),
    ],
)
def test_other_text_is_refused_with_one_sentence(decode: Callable[[str], Cursor[Any]], text: str):
    with pytest.raises(ValueError, match=r"^is not a cursor of this list\.$"):
        decode(text)


def test_a_cursor_of_another_kind_of_list_is_refused():
    with pytest.raises(ValueError, match="is not a cursor of this list"):
        decode_uuid_cursor(Cursor(NOON, 7).encode())
    with pytest.raises(ValueError, match="is not a cursor of this list"):
        decode_number_cursor(Cursor(NOON, uuid.UUID(int=7)).encode())


@pytest.mark.django_db
@pytest.mark.parametrize("oldest_first", [False, True])
def test_rows_of_one_moment_are_ordered_by_key(oldest_first: bool):
    moments = [0, 1, 1, 1, 2]
    users = [
        User.objects.create(username=f"user-{number}", date_joined=NOON + timedelta(days=days))
        for number, days in enumerate(moments)
    ]
    order = ("date_joined", "pk") if oldest_first else ("-date_joined", "-pk")
    rows = User.objects.filter(username__startswith="user-").order_by(*order)
    expected = users if oldest_first else users[::-1]

    for place, user in enumerate(expected):
        behind = Cursor(user.date_joined, user.pk).rows_behind(
            rows, moment="date_joined", oldest_first=oldest_first
        )
        assert list(behind) == expected[place + 1 :]
