"""The leaderboards: which there are, and one of them."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from runs.queries import leaderboard as reading
from runs.queries.leaderboard import decode_mark
from tunixrt.refusals import InvalidQuery

PAGE_SIZE = 20
COLUMNS_MAX = 10


@require_safe
@login_required
def leaderboards(request: HttpRequest) -> HttpResponse:
    """Show the sets of questions that have one."""
    return render(request, "runs/leaderboards.html", {"sets": reading.sets_with_scores()})


@require_safe
@login_required
def leaderboard(request: HttpRequest, set_key: str) -> HttpResponse:
    """Show one scorer of one set."""
    boards = reading.boards_for(set_key)
    board = reading.choose_board(boards, request.GET.get("scorer", ""))
    columns = [one for one in boards if one.scorer_hash in request.GET.getlist("columns")]
    behind = None
    if given := request.GET.get("cursor"):
        try:
            behind = decode_mark(given)
        except ValueError as error:
            raise InvalidQuery({"cursor": [str(error)]}) from error
    rows, following = reading.read_board(
        board,
        limit=PAGE_SIZE,
        behind=behind,
        columns=[one.scorer_hash for one in columns[:COLUMNS_MAX]],
    )
    context = {
        "board": board,
        "boards": boards,
        "columns": columns,
        "rows": rows,
        "next_cursor": following.encode() if following else None,
        "unranked": [] if behind else reading.unranked(board),
    }
    return render(request, "runs/leaderboard.html", context)
