from django.urls import path, register_converter
from django.urls.converters import PathConverter

from runs.api import (
    compared,
    erasing,
    evaluations,
    gates,
    judgements,
    leaderboard,
    lineage,
    live,
    look,
    views,
    votes,
)


class FilePathConverter(PathConverter):
    """A path as the file system allows it. Django's own ``path`` takes no line feed, and reversing
    raises an error then."""

    regex = r"[\s\S]+"


register_converter(FilePathConverter, "file")

app_name = "runs_api"
urlpatterns = [
    path("tunix/run", views.RunSubmit.as_view(), name="submit"),
    path("tunix/runs", views.RunList.as_view(), name="list"),
    path("tunix/runs/<str:run_id>", views.RunDetail.as_view(), name="detail"),
    path("tunix/runs/<str:run_id>/status", views.RunStatusView.as_view(), name="status"),
    path("tunix/runs/<str:run_id>/manifest", views.RunManifest.as_view(), name="manifest"),
    path("tunix/runs/<str:run_id>/logs", live.RunLogs.as_view(), name="logs"),
    path("tunix/runs/<str:run_id>/logs/<str:stream>", live.RunLogFile.as_view(), name="log_file"),
    path("tunix/runs/<str:run_id>/events", live.RunEvents.as_view(), name="events"),
    path("tunix/runs/<str:run_id>/metrics", live.RunMetrics.as_view(), name="metrics"),
    path("tunix/runs/<str:run_id>/artifacts", live.RunArtifacts.as_view(), name="artifacts"),
    path(
        "tunix/runs/<str:run_id>/artifacts/<file:path>", live.RunArtifact.as_view(), name="artifact"
    ),
    path("tunix/runs/<str:run_id>/cancel", views.RunCancel.as_view(), name="cancel"),
    path("tunix/runs/<str:run_id>/retry", views.RunRetry.as_view(), name="retry"),
    path("tunix/runs/<str:run_id>/extend", views.RunExtend.as_view(), name="extend"),
    path("tunix/runs/<str:run_id>/evaluate", evaluations.RunEvaluate.as_view(), name="evaluate"),
    path(
        "tunix/runs/<str:run_id>/evaluation",
        evaluations.RunEvaluation.as_view(),
        name="run_evaluation",
    ),
    path("tunix/evaluations", evaluations.EvaluationList.as_view(), name="evaluations"),
    path(
        "tunix/evaluations/compare",
        compared.EvaluationComparison.as_view(),
        name="compare_evaluations",
    ),
    path(
        "tunix/evaluations/<str:evaluation_id>",
        evaluations.EvaluationDetail.as_view(),
        name="evaluation",
    ),
    path(
        "tunix/evaluations/<str:evaluation_id>/items",
        evaluations.EvaluationItems.as_view(),
        name="evaluation_items",
    ),
    path(
        "tunix/evaluations/<str:evaluation_id>/judge",
        judgements.EvaluationJudge.as_view(),
        name="judge",
    ),
    path(
        "tunix/evaluations/<str:evaluation_id>/judgements",
        judgements.EvaluationJudgements.as_view(),
        name="judgements",
    ),
    path("tunix/judges", judgements.Judges.as_view(), name="judges"),
    path(
        "tunix/judgements/<str:judgement_id>",
        judgements.JudgementDetail.as_view(),
        name="judgement",
    ),
    path(
        "tunix/judgements/<str:judgement_id>/cancel",
        judgements.JudgementCancel.as_view(),
        name="judgement_cancel",
    ),
    path("regression/baselines", gates.Baselines.as_view(), name="baselines"),
    path("regression/baselines/<str:name>", gates.BaselineDetail.as_view(), name="baseline"),
    path("regression/check", gates.Checks.as_view(), name="checks"),
    path("regression/check/<str:check_id>", gates.Check.as_view(), name="check"),
    path("tunix/leaderboards", leaderboard.LeaderboardList.as_view(), name="leaderboards"),
    path(
        "tunix/leaderboards/<str:set_key>",
        leaderboard.LeaderboardDetail.as_view(),
        name="leaderboard",
    ),
    path("tunix/votes", votes.Rounds.as_view(), name="votes"),
    path("tunix/votes/<str:round_id>", votes.RoundDetail.as_view(), name="vote"),
    path("tunix/votes/<str:round_id>/next", votes.NextQuestion.as_view(), name="vote_next"),
    path("tunix/votes/<str:round_id>/votes", votes.RoundVotes.as_view(), name="vote_votes"),
    path("tunix/votes/<str:round_id>/dataset", votes.RoundDataset.as_view(), name="vote_dataset"),
    path("traces/<str:trace_id>/rendered", look.RenderedExample.as_view(), name="rendered"),
    path("erasures", erasing.ErasureList.as_view(), name="erasures"),
    path("erasures/<str:erasure_id>", erasing.ErasureDetail.as_view(), name="erasure"),
    path("traces/<str:trace_id>/uses", lineage.TraceUses.as_view(), name="uses"),
    path("datasets/<str:key>/lineage", lineage.DatasetLineage.as_view(), name="lineage"),
    path("datasets/<str:key>/lengths", look.TokenLengths.as_view(), name="lengths"),
    path("tunix/status", views.RuntimeStatus.as_view(), name="runtime"),
]
