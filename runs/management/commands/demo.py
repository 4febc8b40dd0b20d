import shutil
import time
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from datasets.examples.arithmetic import NAME, VERSION
from datasets.models import Dataset
from runs.execution import attending, launching
from runs.models import Run, RunStatus
from runs.runfolder import names
from runs.runfolder.checkpoints import complete_steps
from runs.services import reservations, submission
from runs.services.output_root import root_problem
from runs.services.run_requests import clean_request
from runs.services.runtime import local_runtime
from tunixrt.local_mode import local_user

# Two-digit addition with worked steps: enough training for a tiny model to solve sums it has never
# seen.
TRAINING: dict[str, Any] = {
    "model_id": "preset:tiny-llama",
    "learning_rate": 3e-3,
    "num_epochs": 4,
    "batch_size": 32,
    "max_seq_length": 128,
    "lr_schedule": "cosine",
    "warmup_ratio": 0.1,
    "exact_match_examples": 200,
    "exact_match_max_tokens": 32,
    "tags": ["demo"],
}
EXACT_MATCH_GOAL = 0.5
LOSS_GOAL = 0.5  # the last loss as a share of the first
REPORT_SECONDS = 2.0


class Command(BaseCommand):
    help = "Make a dataset, check a configuration, train a tiny model until it can add, and report."

    def handle(self, *args: Any, **options: Any) -> None:
        if not local_runtime().available:
            raise CommandError(local_runtime().message)
        if problem := root_problem():
            raise CommandError(problem)
        self.stdout.write("1/3  Dataset: worked two-digit additions, made here")
        call_command("make_demo_dataset", stdout=self.stdout)
        dataset = Dataset.objects.get(name=NAME, version=VERSION)
        self.stdout.write(
            f"     {dataset.dataset_key}: {dataset.size} examples, {dataset.held_out_size} of them"
            " held out"
        )

        self.stdout.write("2/3  Dry run: check everything, start nothing")
        asked = TRAINING | {"dataset_key": dataset.dataset_key}
        dry_run, _ = launching.run_in_request(request=clean_request(asked), by=local_user())
        self.stdout.write(f"     {dry_run.status}: {dry_run.message}")
        if dry_run.status != RunStatus.COMPLETED:
            raise CommandError(dry_run.stderr)

        self.stdout.write("3/3  Local run: train")
        run, _ = submission.submit_run(
            request=clean_request(asked | {"dry_run": False}), by=local_user(), queued=True
        )
        self._train(run)
        self._report(run, dataset)

    def _train(self, run: Run) -> None:
        """Act as this host's attendant for one run; beside a real one, just watch."""
        began = time.monotonic()
        said_at = 0.0
        first: tuple[int, float] | None = None  # the first step we saw, and when
        while not run.is_terminal:
            launching.launch_pending()
            attending.attend()
            run.refresh_from_db()
            if first is None and run.step:
                first = (run.step, time.monotonic())
            if self.stdout.isatty() or time.monotonic() - said_at >= REPORT_SECONDS:
                self._say(self._progress(run, time.monotonic() - began, first))
                said_at = time.monotonic()
            time.sleep(0.2)
        self._say(self._progress(run, time.monotonic() - began, first))
        if self.stdout.isatty():
            self.stdout.write("")

    def _say(self, line: str) -> None:
        if self.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            self.stdout.write("\r" + line[:width].ljust(width), ending="")
            self.stdout.flush()
        else:
            self.stdout.write(line)

    @staticmethod
    def _progress(run: Run, seconds: float, first: tuple[int, float] | None) -> str:
        if first is None or not run.step or not run.total_steps:
            return (
                f"     {run.status}, {seconds:3.0f} s: loading and compiling, then the untrained"
                " model's held-out answers"
            )
        rate = (
            run.metric_series.filter(name="tokens_per_second")
            .values_list("last", flat=True)
            .first()
            or 0
        )
        pace = (time.monotonic() - first[1]) / max(1, run.step - first[0])
        left = (run.total_steps - run.step) * pace
        loss = "" if run.last_loss is None else f", loss {run.last_loss:.4f}"
        return (
            f"     step {run.step}/{run.total_steps}{loss}, {rate:,.0f} tokens/s, about {left:.0f}"
            " s of training left"
        )

    def _report(self, run: Run, dataset: Dataset) -> None:
        folder = reservations.run_folder(run)
        result = run.summary
        if run.status != RunStatus.COMPLETED:
            raise CommandError(f"Run {run.run_id} {run.status}: {run.message}\n{run.stderr}")
        first, last = result["loss_first"], result["loss_last"]
        before, after = result["exact_match_before"], result["exact_match_after"]
        checkpoint = folder / result["checkpoint"]
        self.stdout.write(
            f"\nRun          {run.run_id}\nName         {run.name}\nStatus       {run.status} in"
            f" {run.duration_seconds:.0f} s\nLoss         {first:.3f} → {last:.4f}\nExact match "
            f" {before:.1%} → {after:.1%} of {dataset.held_out_size} held-out problems\nCheckpoint "
            f"  {checkpoint}\nLogs         {folder / names.STDOUT}\nManifest    "
            f" {folder / names.MANIFEST}\nLook at it   make serve, then"
            f" http://127.0.0.1:8000/runs/{run.run_id}"
        )
        if int(checkpoint.name) not in complete_steps(checkpoint.parent):
            raise CommandError("The checkpoint is missing.")
        if last > LOSS_GOAL * first or after < EXACT_MATCH_GOAL or after <= before:
            raise CommandError("The model did not learn what it should have: see the log.")
