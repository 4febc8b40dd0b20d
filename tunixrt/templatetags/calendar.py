"""The date hierarchy of an admin list, at the price of two index look-ups."""

from typing import Any

from django import template
from django.contrib.admin.views.main import ChangeList

from tunixrt.admin.lists import calendar as choices

register = template.Library()


@register.inclusion_tag("admin/date_hierarchy.html")
def calendar(changelist: ChangeList) -> dict[str, Any]:
    return choices(changelist)
