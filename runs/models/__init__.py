"""The run registry: what was asked, what happened, who did it, what was measured."""

from runs.models.counter import Counter
from runs.models.evaluation import (
    Evaluation,
    EvaluationPart,
    EvaluationSet,
    Look,
    Score,
    Standing,
)
from runs.models.gate import Baseline, GateCheck, GatePart, GateState, Verdict
from runs.models.host import Host, HostQuerySet
from runs.models.judgement import Judgement, JudgementState, JudgeVerdict
from runs.models.measurement import MetricChunk, MetricSeries
from runs.models.output import DiskQuota, FolderReservation, OutputRoot
from runs.models.run import (
    ACTIVE,
    EXECUTING,
    TERMINAL,
    Run,
    RunEngine,
    RunEvent,
    RunMode,
    RunNameKey,
    RunQuerySet,
    RunStatus,
    RunTag,
)
from runs.models.saved_view import SavedView
from runs.models.vote import Choice, Vote, VoteRound
from runs.models.webhook import DeliveryState, WebhookAttempt, WebhookDelivery

__all__ = [
    "ACTIVE",
    "EXECUTING",
    "TERMINAL",
    "Baseline",
    "Choice",
    "Counter",
    "DeliveryState",
    "DiskQuota",
    "Evaluation",
    "EvaluationPart",
    "EvaluationSet",
    "FolderReservation",
    "GateCheck",
    "GatePart",
    "GateState",
    "Host",
    "HostQuerySet",
    "JudgeVerdict",
    "Judgement",
    "JudgementState",
    "Look",
    "MetricChunk",
    "MetricSeries",
    "OutputRoot",
    "Run",
    "RunEngine",
    "RunEvent",
    "RunMode",
    "RunNameKey",
    "RunQuerySet",
    "RunStatus",
    "RunTag",
    "SavedView",
    "Score",
    "Standing",
    "Verdict",
    "Vote",
    "VoteRound",
    "WebhookAttempt",
    "WebhookDelivery",
]
