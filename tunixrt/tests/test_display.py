"""How pages write times, durations, numbers and Markdown."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from django.utils import timezone as django_timezone

from tunixrt.sizes import size
from tunixrt.templatetags.display import (
    duration,
    elapsed,
    number,
    percent,
    points,
    relative,
    signed,
    when,
)
from tunixrt.templatetags.markdown import markdown
from tunixrt.tests.cpu import run_within_cpu_seconds
from tunixrt.tests.plugin import ROOT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0, "0 s"), (0.0, "0 s"), (0.0001, "1 ms"), (0.42, "420 ms"),
        (0.9996, "1.0 s"), (8.14, "8.1 s"), (9.99, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
        (185.4, "3 min 05 s"), (3599.7, "1 h 00 min"), (8040, "2 h 14 min"), (86400, "1 d 00 h"),
        (273600, "3 d 04 h"),
    ],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-5, "2e-5"), (3e-4, "0.0003"), (0.03, "0.03"), (1.0, "1"), (2.871449, "2.8714"),
        (9412.3, "9,412.3"), (1234567.8, "1,234,568"), (12345, "12,345"), (0, "0"), (True, "true"),
        (False, "false"), (None, "–"), ("", "–"), ("NaN", "NaN"), (float("nan"), "nan"),
        (1e300, "1e300"),
    ],
)  # fmt: skip
def test_number(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.875, "87.5 %"),
        (0, "0 %"),
        (1.0, "100 %"),
        (None, "–"),
        ("much", "much"),
        ([], "[]"),
        (333.0, "33,300 %"),
        (0.99996, "100 %"),
        (0.00012, "0.012 %"),
        (1e-9, "< 0.001 %"),
        (True, "true"),
    ],
)
def test_percent(value: object, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "in_points", "alone"),
    [
        (0.1, "+10.0", "+0.1"),
        (-0.0325, "−3.2", "−0.0325"),
        (0, "0.0", "0"),
        (-0.0001, "0.0", "−0.0001"),
        (-1234.5, "−123450.0", "−1,234"),
        (1e-9, "0.0", "+1e−09"),
        (None, "–", "–"),
    ],
)
def test_differences_have_a_sign(value: float | None, in_points: str, alone: str) -> None:
    assert (points(value), signed(value)) == (in_points, alone)


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(seconds=5), "just now"), (timedelta(seconds=61), "1 minute ago"),
        (timedelta(hours=2.5), "2 hours ago"), (timedelta(days=8), "1 week ago"),
        (timedelta(days=800), "2 years ago"), (timedelta(hours=-3, seconds=-9), "in 3 hours"),
        (timedelta(seconds=-9), "in a moment"),
    ],
)  # fmt: skip
def test_relative(ago: timedelta, text: str) -> None:
    assert relative(django_timezone.now() - ago) == text


def test_a_moment_is_absolute_in_utc_in_its_title() -> None:
    moment = datetime(2026, 3, 4, 6, 6, 7, tzinfo=timezone(timedelta(hours=1)))
    assert 'datetime="2026-03-04T05:06:07.000Z" title="2026-03-04 05:06:07 UTC"' in when(moment)
    assert when(None) == "–"
    assert when(None, "never") == "never"


def test_what_goes_on_counts_on() -> None:
    since = datetime.now(UTC) - timedelta(seconds=65)
    assert f'data-since="{since.isoformat()}">1 min 05 s<' in elapsed(None, since, True)
    assert elapsed(3.25, since, True) == "3.2 s"
    assert elapsed(None, since, False) == "–"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** _b_", "<p><strong>a</strong> <em>b</em></p>\n"),
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>\n"),
        ("[a](JaVaScRiPt&colon;alert(1))", "<p>[a](JaVaScRiPt:alert(1))</p>\n"),
        ("[a](data:text/html,x)", "<p>[a](data:text/html,x)</p>\n"),
        (
            '[a](/runs "\\" onclick=\\"x")',
            '<p><a href="/runs" title="&quot; onclick=&quot;x">a</a></p>\n',
        ),
    ],
)
def test_markdown_is_harmless(text: str, html: str) -> None:
    assert markdown(text) == html


def test_hostile_markdown_takes_bounded_time() -> None:
    run_within_cpu_seconds(
        30,
        """
import os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
django.setup()
from tunixrt.templatetags.markdown import markdown
from tunixrt.tests.cpu import run_within_cpu_seconds
from tunixrt.tests.plugin import ROOT
table = "a|" * 100 + "\\n" + "-|" * 100 + "\\n" + "a|b\\n" * 4_900
starts = ("[", "![", "[a](", "*_", ">", "- ")
for text in (*(start * (20_000 // len(start)) for start in starts), table):
    for _ in range(20):
        markdown(text[:20_000])
""",
    )


def test_a_table_is_a_table_unless_it_could_be_huge() -> None:
    assert "<table>" in markdown("a|b\n-|-\n1|2\n")
    assert "<table>" not in markdown("a|" * 100 + "\n" + "-|" * 100 + "\n" + "1|2\n" * 100)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999.4, "999 bytes"), (999.6, "1.0 kB"), (1500, "1.5 kB"),
        (999_949, "999.9 kB"), (999_950, "1.0 MB"), (916_186_316, "916.2 MB"),
        (8 * 2**30, "8.6 GB"), (12_345 * 10**9, "12.3 TB"), (10**19, "10,000.0 PB"),
    ],
)  # fmt: skip
def test_sizes_are_in_units_of_1000(count: float, text: str) -> None:
    assert size(count) == text


def test_every_page_writes_sizes_alike() -> None:
    """Django's ``filesizeformat`` counts in units of 1024 and calls them MB all the same."""
    folders = [ROOT / name for name in ("templates", "runs", "datasets", "tunixrt")]
    files = [
        path
        for folder in folders
        for ending in ("html", "py")
        for path in folder.rglob(f"*.{ending}")
    ]
    assert [path for path in files if "filesizeformat" in path.read_text()] == [Path(__file__)]
