"""Named histories: kept, opened, renamed, deleted. Each person has their own; in local mode the
house has."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from runs.forms.history import HistoryFilter
from runs.models import SavedView
from runs.services import saved_views as services
from runs.services.saved_views import VIEWS_MAX, ViewRefused
from tunixrt.accounts import person
from tunixrt.templatetags.display import isolate


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def saved_views(request: HttpRequest) -> HttpResponse:
    """GET: all of them. POST: keep one, and go to it."""
    if request.method != "POST":
        views = SavedView.objects.filter(owner=person(request))[:VIEWS_MAX]
        return render(request, "runs/saved_views.html", {"views": views})
    query = HistoryFilter(QueryDict(request.POST.get("query", ""))).query  # leaves the cursor out
    filters = HistoryFilter(QueryDict(query))
    try:
        if not filters.is_valid():
            raise ViewRefused("The filters of this view cannot be used.")
        view, created = services.save_view(
            by=person(request), name=request.POST.get("name"), query=query
        )
    except ViewRefused as refusal:
        messages.error(request, f"The view was not kept. {refusal}")
        return redirect("runs:saved_views")
    messages.success(
        request, f"The view {isolate(view.name)} {'is kept' if created else 'now shows this'}."
    )
    return redirect(f"{reverse('runs:history')}?{view.query}")


@require_POST
@login_required
def rename_view(request: HttpRequest, pk: int) -> HttpResponse:
    view = get_object_or_404(SavedView, pk=pk, owner=person(request))
    try:
        services.rename_view(view=view, name=request.POST.get("name"))
    except ViewRefused as refusal:
        messages.error(request, f"The view keeps its name. {refusal}")
    else:
        messages.success(request, f"The view is called {isolate(view.name)} now.")
    return redirect("runs:saved_views")


@require_POST
@login_required
def delete_view(request: HttpRequest, pk: int) -> HttpResponse:
    view = get_object_or_404(SavedView, pk=pk, owner=person(request))
    view.delete()
    messages.success(
        request, f"The view {isolate(view.name)} is deleted. Its runs are where they were."
    )
    return redirect("runs:saved_views")
