"""The date hierarchy of an admin list, at the price of two index look-ups."""

from datetime import date, datetime, timedelta
from typing import Any

from django import template
from django.contrib.admin.views.main import ChangeList

register = template.Library()


@register.inclusion_tag("admin/date_hierarchy.html")
def calendar(changelist: ChangeList) -> dict[str, Any]:
    """Return the choices of a date hierarchy, computed from the first and the last row: Django's
    own would read every row.

    The same query parameters and template (admin/date_hierarchy.html) as Django's.
    """
    field = changelist.date_hierarchy
    rows = changelist.root_queryset.filter(**{f"{field}__isnull": False})
    first = rows.order_by(field).values_list(field, flat=True).first()
    last = rows.order_by(f"-{field}").values_list(field, flat=True).first()
    if not first or not last:
        return {"show": False}
    year, month, day = (_given(changelist, f"{field}__{part}") for part in ("year", "month", "day"))

    def link(**parts: int) -> str:
        return changelist.get_query_string(
            {f"{field}__{part}": value for part, value in parts.items()}, [f"{field}__"]
        )

    if year is None:
        years = range(first.year, last.year + 1)
        return {
            "show": True,
            "back": None,
            "choices": [{"link": link(year=number), "title": str(number)} for number in years],
        }
    if month is None:
        months = [date(year, number, 1) for number in range(1, 13)]
        months = [
            start for start in months if start <= last.date() and _next_month(start) > first.date()
        ]
        choices = [
            {"link": link(year=year, month=start.month), "title": f"{start:%B}"} for start in months
        ]
        return {"show": True, "back": {"link": link(), "title": "All dates"}, "choices": choices}
    start = date(year, month, 1)
    if day is None:
        days = [
            start + timedelta(days=number) for number in range((_next_month(start) - start).days)
        ]
        days = [one for one in days if first.date() <= one <= last.date()]
        choices = [
            {"link": link(year=year, month=month, day=one.day), "title": f"{one:%b} {one.day}"}
            for one in days
        ]
        return {
            "show": True,
            "back": {"link": link(year=year), "title": str(year)},
            "choices": choices,
        }
    one = datetime(year, month, day)  # noqa: DTZ001 - a name on a page, not a moment
    back = {"link": link(year=year, month=month), "title": f"{one:%B %Y}"}
    return {"show": True, "back": back, "choices": [{"title": f"{one:%B} {one.day}"}]}


def _given(changelist: ChangeList, name: str) -> int | None:
    value = changelist.params.get(name)
    return int(value) if value else None


def _next_month(start: date) -> date:
    return date(start.year + start.month // 12, start.month % 12 + 1, 1)
