"""The pages of runs. A page's name is its view's, its template's and its test's."""

from django.urls import path

from runs.views.actions import annotate, cancel, extend, pin, remove_file, retry, trash
from runs.views.chosen import chosen
from runs.views.compare import compare, compare_csv
from runs.views.compare_evaluations import compare_evaluations, compare_evaluations_csv
from runs.views.detail import detail
from runs.views.erasing import erase_examples, erasure, erasure_continue
from runs.views.evaluations import evaluate, evaluation, evaluations
from runs.views.history import essentials, history
from runs.views.judgements import judge, judgement_cancel
from runs.views.leaderboard import leaderboard, leaderboards
from runs.views.lineage import dataset_lineage, uses
from runs.views.look import look
from runs.views.samples import samples, token_lengths
from runs.views.saved_views import delete_view, rename_view, saved_views
from runs.views.start import start
from runs.views.votes import vote, vote_dataset, vote_results, votes

app_name = "runs"
urlpatterns = [
    path("", history, name="history"),
    path("runs/new", start, name="start"),
    path("runs/chosen", chosen, name="chosen"),
    path("runs/compare", compare, name="compare"),
    path("runs/compare.csv", compare_csv, name="compare_csv"),
    path("evaluations", evaluations, name="evaluations"),
    path("evaluations/new", evaluate, name="evaluate"),
    path("evaluations/compare", compare_evaluations, name="compare_evaluations"),
    path("evaluations/compare.csv", compare_evaluations_csv, name="compare_evaluations_csv"),
    path("evaluations/<uuid:evaluation_id>", evaluation, name="evaluation"),
    path("evaluations/<uuid:evaluation_id>/judge", judge, name="judge"),
    path("judgements/<uuid:judgement_id>/cancel", judgement_cancel, name="judgement_cancel"),
    path("leaderboards", leaderboards, name="leaderboards"),
    path("leaderboards/<str:set_key>", leaderboard, name="leaderboard"),
    path("votes", votes, name="votes"),
    path("votes/<uuid:round_id>", vote, name="vote"),
    path("votes/<uuid:round_id>/results", vote_results, name="vote_results"),
    path("votes/<uuid:round_id>/dataset", vote_dataset, name="vote_dataset"),
    path("erasures/new", erase_examples, name="erase_examples"),
    path("erasures/<uuid:erasure_id>", erasure, name="erasure"),
    path("erasures/<uuid:erasure_id>/continue", erasure_continue, name="erasure_continue"),
    path("datasets/<str:key>/lineage", dataset_lineage, name="dataset_lineage"),
    path("datasets/<str:key>/tokens", token_lengths, name="token_lengths"),
    path("traces/<uuid:trace_id>/uses", uses, name="uses"),
    path("traces/<uuid:trace_id>/look", look, name="look"),
    path("runs/views", saved_views, name="saved_views"),
    path("runs/views/<int:pk>/rename", rename_view, name="rename_view"),
    path("runs/views/<int:pk>/delete", delete_view, name="delete_view"),
    path("runs/<uuid:run_id>", detail, name="detail"),
    path("runs/<uuid:run_id>/essentials", essentials, name="essentials"),
    path("runs/<uuid:run_id>/samples", samples, name="samples"),
    path("runs/<uuid:run_id>/cancel", cancel, name="cancel"),
    path("runs/<uuid:run_id>/retry", retry, name="retry"),
    path("runs/<uuid:run_id>/extend", extend, name="extend"),
    path("runs/<uuid:run_id>/trash", trash, name="trash"),
    path("runs/<uuid:run_id>/pin", pin, name="pin"),
    path("runs/<uuid:run_id>/remove-file", remove_file, name="remove_file"),
    path("runs/<uuid:run_id>/annotate", annotate, name="annotate"),
]
