"""Names: the view of a page, its route and its template bear one word."""

import inspect
import re

import pytest
from django.template.loader import get_template
from django.urls import URLPattern

import datasets.urls
import runs.urls
import tunixrt.urls
from tunixrt.tests.plugin import ROOT

PAGES = {
    "datasets": datasets.urls.urlpatterns,
    "runs": runs.urls.urlpatterns,
    "registration": tunixrt.urls.urlpatterns,
}


def own_routes(folder: str) -> dict[str | None, str]:
    return {
        route.name: inspect.unwrap(route.callback).__name__
        for route in PAGES[folder]
        if isinstance(route, URLPattern)
        and inspect.isfunction(inspect.unwrap(route.callback))
        and not hasattr(route.callback, "view_class")  # Django's and DRF's
        and not inspect.unwrap(route.callback).__module__.startswith("django.")
    }


@pytest.mark.parametrize("folder", PAGES)
def test_a_route_is_named_as_its_view(folder: str) -> None:
    routes = own_routes(folder)
    assert routes
    assert {name: view for name, view in routes.items() if name != view} == {}


@pytest.mark.parametrize("folder", PAGES)
def test_the_template_of_a_page_is_named_as_its_route(folder: str) -> None:
    named = {route.name for route in PAGES[folder] if isinstance(route, URLPattern)}
    templates = sorted(
        path for path in (ROOT / "templates" / folder).glob("*.html") if path.name[0] != "_"
    )
    assert templates
    for path in templates:
        get_template(f"{folder}/{path.name}")  # … and it compiles
    assert [path.stem for path in templates if path.stem not in named] == []


def test_every_route_that_is_named_exists() -> None:
    known = {
        f"{folder}:{route.name}"
        for folder in ("datasets", "runs")
        for route in PAGES[folder]
        if isinstance(route, URLPattern)
    }
    files = [
        *(ROOT / "templates").rglob("*.html"),
        *(path for app in ("datasets", "runs", "tunixrt") for path in (ROOT / app).rglob("*.py")),
    ]
    named = {
        name
        for path in files
        for name in re.findall(r"""["']((?:datasets|runs):\w+)["']""", path.read_text())
    }
    assert len(named) > 30
    assert named - known == set()
