"""How pages write times, durations and numbers."""

from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from tunixrt.roles import May, why_not
from tunixrt.sizes import size

register = template.Library()
register.filter("size", size)

_UNITS = (
    (86400 * 365, "year"),
    (86400 * 30, "month"),
    (86400 * 7, "week"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
)
NOTHING = "–"


@register.filter
def may(user: Any, what: str) -> bool:
    """Return whether the account may do that (tunixrt/roles.py). For what one owns or no account
    does."""
    return user.is_authenticated and not why_not(user, May(what), owner_id=user.pk)


@register.simple_tag
def when(moment: datetime | None, nothing: str = NOTHING) -> str | SafeString:
    """Return a moment as people say it, with the absolute time (UTC) in the title; the browser
    updates the words."""
    if moment is None:
        return nothing
    exact = moment.astimezone(UTC).isoformat(timespec="milliseconds")[:23]
    return mark_safe(  # a moment holds no markup
        f'<time datetime="{exact}Z" title="{exact[:10]} {exact[11:19]} UTC" data-relative>'
        f"{relative(moment)}</time>"
    )


def relative(moment: datetime) -> str:
    """Return ``3 minutes ago``, ``in 2 hours``, in the same words as static/js/tunixrt.js."""
    seconds = (timezone.now() - moment).total_seconds()
    past = seconds >= 0
    seconds = abs(seconds)
    for length, unit in _UNITS:
        if seconds >= length:
            count = int(seconds // length)
            amount = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"{amount} ago" if past else f"in {amount}"
    return "just now" if past else "in a moment"


@register.filter
def duration(seconds: float | None) -> str:
    """Return seconds as people read them: ``0 s``, ``420 ms``, ``8.1 s``, ``41 s``, ``3 min 05 s``,
    ``2 h 14 min``, ``3 d 04 h``."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.9995:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 9.95 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


@register.filter
def number(value: Any) -> str:
    """Return a number in few characters: ``2e-5``, ``0.03``, ``12,345``, ``1.2346``; ``true``,
    ``false``. Anything else unchanged."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, int | float):
        return NOTHING if value in (None, "") else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:,.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:,.5g}"
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if exponent else text


@register.filter
def percent(value: Any) -> str:
    """Return a share of 0 to 1 as ``87.5 %``, in three digits and without an exponent. Anything
    else unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return number(value)
    hundredths = value * 100
    if 0 < abs(hundredths) < 0.001:
        return "< 0.001 %"
    return f"{hundredths:,.0f} %" if abs(hundredths) >= 99.95 else f"{hundredths:.3g} %"


@register.filter
def points(value: float | None) -> str:
    """Return a difference of two shares in percentage points, with its sign: ``+10.0``,
    ``−3.3``."""
    return NOTHING if value is None else _with_sign(f"{value * 100:+.1f}")


@register.filter
def signed(value: float | None) -> str:
    """Return a difference with its sign, in three digits: ``+0.125``, ``−1,234``."""
    if value is None:
        return NOTHING
    return _with_sign(f"{value:+,.0f}" if 99.95 <= abs(value) < 1e15 else f"{value:+.3g}")


def _with_sign(text: str) -> str:
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


@register.simple_tag
def elapsed(seconds: float | None, since: datetime | None, going_on: bool) -> str | SafeString:
    """Return how long something took, or, while it continues, how long it has taken so far, which
    the browser updates."""
    if seconds is None and going_on and since is not None:
        so_far = max(0.0, (timezone.now() - since).total_seconds())
        return format_html(
            '<span data-since="{}">{}</span>',
            since.astimezone(UTC).isoformat(),
            duration(float(int(so_far))),
        )
    return duration(seconds)


@register.filter
def isolate(text: Any) -> str:
    """Isolate text of others inside an attribute or a sentence, where no ``<bdi>`` can stand, so
    that its direction does not change what follows."""
    return f"\u2068{text}\u2069"  # first strong isolate, pop directional isolate (UAX 9)


@register.filter
def of(table: dict[Any, Any], key: Any) -> Any:
    """Return ``table[key]``, or nothing."""
    return table.get(key, "")
