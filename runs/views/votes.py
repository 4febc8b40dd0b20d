"""People's votes: the list of rounds, a question with two outputs whose models are not named, and
what came of a round."""

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from runs.queries import votes as reading
from runs.services import votes as voting
from runs.services.votes import find_round
from tunixrt.accounts import person
from tunixrt.cursors import decode_uuid_cursor
from tunixrt.refusals import InvalidQuery, Refusal
from tunixrt.roles import May, require
from tunixrt.templatetags.display import isolate

PAGE_SIZE = 20


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def votes(request: HttpRequest) -> HttpResponse:
    """Show the list of rounds, newest first; POST starts one."""
    by = person(request)
    if request.method == "POST":
        require(by, May.MAKE)
        named = [request.POST.get(name, "").replace("\x00", "") for name in ("first", "second")]
        try:
            round = voting.start_round(evaluations=named, by=by)
        except Refusal as refusal:
            messages.error(request, refusal.detail)
            return redirect("runs:votes")
        return redirect("runs:vote", round.pk)
    behind = None
    if given := request.GET.get("cursor"):
        try:
            behind = decode_uuid_cursor(given)
        except ValueError as error:
            raise InvalidQuery({"cursor": [str(error)]}) from error
    rows, following = reading.read_rounds(viewer=by, limit=PAGE_SIZE, behind=behind)
    context = {"rows": rows, "next_cursor": following.encode() if following else None}
    return render(request, "runs/votes.html", context)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def vote(request: HttpRequest, round_id: UUID) -> HttpResponse:
    """Show the next question of the voter, or the one that is asked for again; POST stores a
    vote."""
    by = person(request)
    require(by, May.MAKE)
    round = find_round(round_id)
    if request.method == "POST":
        question, key = (request.POST.get(name, "") for name in ("question", "choice"))
        voting.cast_vote(round=round, question=question, key=key, by=by)
        return redirect("runs:vote", round.pk)
    if question := request.GET.get("question", ""):
        ballot = reading.question_again(round, by, question)
    else:
        ballot = reading.next_question(round, by)
    return render(request, "runs/vote.html", {"round": round, "ballot": ballot})


@require_safe
@login_required
def vote_results(request: HttpRequest, round_id: UUID) -> HttpResponse:
    """Show what came of a round: win rates, agreement, and the form that makes a dataset of it."""
    round = find_round(round_id)
    results = reading.read_results(round)
    win = results.people.win
    context = {
        "round": round,
        "results": results,
        "win": win,
        "raters": [results.people, *reading.judges_beside_people(round)],
        "sides": [
            (round.first, round.first_model, win),
            (round.second, round.second_model, win.of_second),
        ],
    }
    return render(request, "runs/vote_results.html", context)


@require_POST
@login_required
def vote_dataset(request: HttpRequest, round_id: UUID) -> HttpResponse:
    """Make a dataset of preference pairs of the votes."""
    by = person(request)
    require(by, May.MAKE)
    round = find_round(round_id)
    per = request.POST.get("per", "")
    try:
        made = voting.make_preferences(
            round=round,
            name=request.POST.get("name", "").strip(),
            version=request.POST.get("version", "").strip(),
            per=per if per == voting.PER_VOTE else voting.PER_QUESTION,
            by=by,
        )
    except Refusal as refusal:
        messages.error(request, refusal.detail)
        return redirect("runs:vote_results", round.pk)
    left_out = "".join(f" {count:,} left out: {why}." for why, count in made.left_out.items())
    messages.success(
        request,
        f"Made {isolate(made.dataset.dataset_key)} of {made.dataset.size:,} pairs.{left_out}",
    )
    return redirect(reverse("datasets:detail", args=[made.dataset.dataset_key]))
