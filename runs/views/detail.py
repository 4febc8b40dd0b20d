"""One run: what was asked, what happens, what came of it."""

import shlex
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from datasets.comparison.overlaps import known_about
from datasets.models import Dataset
from datasets.services.sealing import may_read_examples
from runs.models import Run, RunStatus
from runs.queries import artifacts, logs
from runs.queries.samples import SamplePage, read_samples
from runs.queries.summaries import histogram_bars, read_plan, read_result, without_texts
from runs.runfolder import files, names
from runs.services import reservations, sources, submission
from runs.services.access import get_run_for
from runs.services.output_root import root_notice
from runs.services.runtime import tunix_command
from runs.spec.kinds import DEFAULT_KIND, KINDS, Kind, kind_named
from tunixrt.accounts import person
from tunixrt.roles import May, why_not

EVENTS_MAX = 200
FILES_MAX = 500
RETRIES_MAX, RETRIES_SHOWN = 200, 20
SAMPLES = 2


@require_safe
@login_required
@vary_on_headers("HX-Request")
def detail(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Show the page, or for htmx only the part that changes while the run is active."""
    found = Run.objects.visible().select_related("owner", "host", "retry_of", "resume_from")
    run = get_run_for(person(request), run_id, may=May.READ, runs=found)
    events = list(run.events.order_by("-at", "-id")[:EVENTS_MAX])
    folder = reservations.run_folder(run)
    listing = artifacts.list_artifacts(folder, limit=FILES_MAX)
    plan = read_plan(run.summary)
    dataset = Dataset.objects.filter(dataset_key=run.dataset_key).first()
    may_read = dataset is None or may_read_examples(person(request), dataset)
    if not may_read:
        for name, value in without_texts(run.__dict__).items():
            setattr(run, name, value)
    context = {
        "run": run,
        # empty where one may act on it
        "why_not": why_not(person(request), May.ACT, owner_id=run.owner_id),
        "tags": [tag.name for tag in run.tags.all()],
        "events": events,
        "retries": visible_retries(run),
        "source": retry_source(run),
        "extensions": visible_extensions(run),
        "dataset": dataset,
        # what is stored today: it may be more than when the run was started
        "overlaps": [said for part in known_about(dataset) for said in part] if dataset else [],
        "may_read": may_read,
        "outputs": read_outputs(run) if may_read else [],
        "warnings": submission.run_warnings(
            summary=run.summary,
            config=run.config,
            timeout_seconds=run.timeout_seconds,
            queued_at=run.queued_at,
        ),
        "plan": plan,
        "bars": histogram_bars(plan["histogram"]) if plan else [],
        "result": read_result(run.summary, kind_of(run)),
        "parameters": parameter_rows(run),
        "command": training_command(run),
        "has_manifest": (folder / names.MANIFEST).is_file(),
        "has_charts": not run.dry_run,
        "files": grouped(listing.artifacts, removable=run.is_terminal),
        "files_bytes": sum(artifact.size for artifact in listing.artifacts),
        "files_truncated": listing.truncated,
        "samples": first_samples(run) if may_read else None,
        "root_notice": root_notice(person(request)) if run.status == RunStatus.PENDING else None,
    }
    template = "runs/_live.html" if request.htmx else "runs/detail.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def kind_of(run: Run) -> Kind:
    return kind_named(run.kind) or KINDS[DEFAULT_KIND]


def retry_source(run: Run) -> sources.Source | None:
    """Return the checkpoint that a retry or an extension of an ended run resumes from."""
    if not run.is_terminal:
        return None
    try:
        return sources.find_source(run)
    except OSError:
        return None  # asked for a retry, the service says why


def visible_extensions(run: Run) -> list[Run]:
    """Return the oldest of the runs that extend it."""
    if not run.is_extensible:
        return []
    extensions = run.heirs.visible().filter(retry_of=None, extend_from_step__isnull=False)
    return list(extensions.order_by("created_at").only("run_id", "name", "status")[:RETRIES_SHOWN])


def visible_retries(run: Run) -> list[Run]:
    """Return the newest of its direct retries. Sort here: asked for the newest, a database walks
    all runs by age to find them."""
    retries = (
        run.retries.visible()
        .order_by()
        .only("run_id", "name", "status", "created_at")[:RETRIES_MAX]
    )
    return sorted(retries, key=lambda retry: retry.created_at, reverse=True)[:RETRIES_SHOWN]


def first_samples(run: Run) -> SamplePage | None:
    """Return the first examples of the run's own data, if it has any."""
    try:
        return read_samples(reservations.run_folder(run), offset=0, limit=SAMPLES)
    except (OSError, files.BrokenFile):
        return None


@dataclass(frozen=True)
class Output:
    """The end of what a run wrote to one stream."""

    name: str
    text: str
    opened: bool
    live: bool  # there is a file to follow or to scroll through

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())


def read_outputs(run: Run) -> list[Output]:
    """Return the row's output once the run has ended; until then what is in its folder so far."""
    folder, limit = reservations.run_folder(run), settings.TUNIX_OUTPUT_MAX_BYTES
    outputs = []
    for name, kept in (("stdout", run.stdout), ("stderr", run.stderr)):
        path = folder / logs.LOGS[name]
        followed = run.supervised and run.is_active
        text = files.read_tail(path, limit) if followed else kept
        wanted = name == "stdout" or run.status in (RunStatus.FAILED, RunStatus.TIMEOUT)
        opened = wanted and (bool(text) or run.is_active)
        outputs.append(
            Output(name, text, opened, live=followed or (run.supervised and path.is_file()))
        )
    return outputs


@dataclass(frozen=True)
class FileGroup:
    """A file, or a checkpoint or model with all its files. ``size`` in bytes."""

    path: str
    files: list[artifacts.Artifact]
    is_folder: bool
    removable: bool

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def grouped(found: list[artifacts.Artifact], *, removable: bool) -> list[FileGroup]:
    """Return ``checkpoints/<step>`` and ``model`` as one each, other files by themselves."""
    groups: dict[str, list[artifacts.Artifact]] = {}
    for artifact in found:
        parts = artifact.path.split("/")
        depth = 2 if artifact.kind == "checkpoint" else 1
        groups.setdefault("/".join(parts[:depth]), []).append(artifact)
    return [
        FileGroup(
            path,
            group,
            is_folder=group[0].path != path,
            removable=removable and artifacts.is_removable(path),
        )
        for path, group in groups.items()
    ]


@dataclass(frozen=True)
class ParameterRow:
    name: str
    value: Any
    default: Any
    help: str
    basic: bool

    @property
    def changed(self) -> bool:
        return bool(self.value != self.default)


def parameter_rows(run: Run) -> list[ParameterRow]:
    """Return every training parameter with the run's value; those that people set first."""
    rows = [
        ParameterRow(
            name,
            run.config.get(name, parameter.default),
            parameter.default,
            parameter.help,
            parameter.basic,
        )
        for name, parameter in kind_of(run).parameters.items()
    ]
    return sorted(rows, key=lambda row: not (row.basic or row.changed))


def training_command(run: Run) -> str:
    """Return the shell command that repeats the run manually."""
    folder = reservations.run_folder(run)
    argv = [*tunix_command(), kind_of(run).command, "--config", names.MANIFEST]
    try:
        recorded = files.read_json(folder / names.COMMAND)
    except files.BrokenFile:
        recorded = None
    if recorded and isinstance(recorded.get("argv"), list):
        argv = [files.clean_text(str(part)) for part in recorded["argv"]]
    return f"cd {shlex.quote(str(folder))}\n{shlex.join(argv)}"
