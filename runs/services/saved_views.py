"""Saved histories, by name. The address is the view; only a name for it is
kept."""

import re
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from runs.models import SavedView
from tunixrt.readable import name_problem
from tunixrt.refusals import Refusal

VIEWS_MAX = 100
NAME_MAX_LENGTH = 64
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class ViewRefused(Refusal):
    """Why a view cannot be kept or renamed."""


def save_view(*, by: User, name: Any, query: str) -> tuple[SavedView, bool]:
    """Keep a history under a name and return ``(view, created)``. An existing view of that name is
    replaced.

    ``query`` is the query string of a valid ``HistoryFilter``.

    Raises:
        ViewRefused: a bad name, or too many views.
    """
    name = _clean_name(name)
    with transaction.atomic():
        view, created = SavedView.objects.update_or_create(
            owner=by, name=name, defaults={"query": query}
        )
        if created and SavedView.objects.filter(owner=by).count() > VIEWS_MAX:
            raise ViewRefused(f"At most {VIEWS_MAX} views are kept: delete one first.")
    return view, created


def rename_view(*, view: SavedView, name: Any) -> SavedView:
    """Rename a saved view. Raise ViewRefused."""
    view.name = _clean_name(name, kept=view.name)
    try:
        with transaction.atomic():
            view.save(update_fields=["name"])
    except IntegrityError as error:
        raise ViewRefused(f"There is a view {view.name!r} already.") from error
    return view


def _clean_name(name: Any, *, kept: str | None = None) -> str:
    name = " ".join(name.split()) if isinstance(name, str) else ""
    if not 1 <= len(name) <= NAME_MAX_LENGTH or _CONTROL.search(name):
        raise ViewRefused(
            f"A name has 1 to {NAME_MAX_LENGTH} characters and no control characters."
        )
    if name != kept and (problem := name_problem(name)):
        raise ViewRefused(f"A name {problem}.")
    return name
