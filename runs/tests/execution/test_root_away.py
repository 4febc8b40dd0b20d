"""The output root goes away for a moment (a network file system, a mount): nothing is concluded
from what cannot be seen."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from runs.execution import attending, homecoming, launching
from runs.execution.attendant import Attendant
from runs.execution.attending import attend
from runs.execution.dry_run import answer_dry_run
from runs.execution.hosts import Observer, stop_taken_away, this_host
from runs.keeper import supervisor
from runs.models import Host, Run
from runs.runfolder import files, names, records
from runs.runfolder.processes import processes_of_run
from runs.services.claiming import claim_run
from runs.services.finishing import finish_run
from runs.services.output_root import is_missing, root_problem
from runs.services.reservations import run_folder
from runs.tests.conftest import Script, Start, Submit
from runs.tests.launching import LaunchedRun, wait_for
from tunixrt.tests.clients import FAR_AWAY

pytestmark = pytest.mark.django_db
Away = Callable[..., Any]
MESSAGE = "tunix: storage: the checkpoint of step 3 could not be written"


@contextmanager
def moved(root: Path) -> Iterator[None]:
    """The root is somewhere else."""
    aside = root.with_name("aside")
    root.rename(aside)
    try:
        yield
        assert not root.exists(), "somebody made the output root anew"
    finally:
        aside.rename(root)


@contextmanager
def unmounted(root: Path) -> Iterator[None]:
    """In place of the root is an empty mount point."""
    aside = root.with_name("aside")
    root.rename(aside)
    root.mkdir()
    try:
        yield
        root.rmdir()  # fails if somebody wrote into it
    finally:
        aside.rename(root)


@contextmanager
def stale(root: Path) -> Iterator[None]:
    """The file server has forgotten the root: every look into it is ESTALE."""
    open_file, stat = os.open, os.stat

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(root)):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(path))
            return real(path, *arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refusing(open_file))
        patch.setattr(os, "stat", refusing(stat))
        yield


KINDS = [moved, unmounted, stale]
every_kind = pytest.mark.parametrize("away", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def training(submit: Submit, scripted: Script, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run under way; no patience makes up for a wrong conclusion."""
    monkeypatch.setattr(attending, "FOLDER_PATIENCE_SECONDS", 0.0)
    scripted(["touch", "begun"], ["wait", "go"], ["say", "trained"])
    run = submit()
    assert launching.launch_pending() == 1
    wait_for((run_folder(run) / "begun").exists, "the training")
    return Run.objects.get(pk=run.pk)


def ends_well(run: Run) -> None:
    (run_folder(run) / "go").touch()
    wait_for(lambda: attend() == 0, "the end")
    run.refresh_from_db()
    assert (run.status, run.stdout) == ("completed", "trained\n")
    assert not (run_folder(run) / names.STOP).exists()


@pytest.mark.django_db(transaction=True)
@every_kind
def test_a_training_goes_on(training: Run, output_root: Path, away: Away) -> None:
    """It was failed at once, and then its healthy keeper was told to stop."""
    attendant = Attendant(stop=lambda: True, with_workers=False)
    with away(output_root):
        for _ in range(3):
            attendant.tick()
        attendant._beat()
        assert attend() == 1
        training.refresh_from_db()
        assert training.status == "running"
    attendant.tick()
    attendant._beat()

    ends_well(training)


@pytest.mark.parametrize("away", [moved, unmounted], ids=["moved", "unmounted"])
def test_the_message_of_a_training_that_fails_meanwhile_is_kept(
    submit: Submit, scripted: Script, output_root: Path, away: Away, tmp_path: Path
) -> None:
    """The keeper looked for it by its path and found nothing: "exited with code 15"."""
    go = tmp_path / "go"
    scripted(["touch", "begun"], ["wait", str(go)], ["leave", 15, MESSAGE])
    run = submit()
    assert launching.launch_pending() == 1
    wait_for((run_folder(run) / "begun").exists, "the training")
    trainer = json.loads((run_folder(run) / names.KEEPER).read_text())["trainer"]["pid"]
    with away(output_root):
        go.touch()
        wait_for(lambda: not Path(f"/proc/{trainer}").exists(), "the end of the training")

    wait_for(lambda: attend() == 0, "the end")

    run.refresh_from_db()
    assert (run.status, run.message) == ("failed", MESSAGE)


def test_a_training_whose_launcher_could_not_tell_is_not_started_twice(
    training: Run, output_root: Path
) -> None:
    """Its folder was made anew, and in an empty one nothing has started yet."""
    Run.objects.update(process=None)
    with unmounted(output_root):
        attend()
        assert len(processes_of_run(str(training.run_id))) == 2  # keeper and trainer

    ends_well(training)


def test_only_its_own_folder_that_stays_away_is_the_end_of_a_run(training: Run) -> None:
    folder = run_folder(training)
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        attend()
        attend()
    finally:
        aside.rename(folder)
    training.refresh_from_db()
    assert (training.status, training.message) == ("failed", attending.FOLDER_GONE)


def test_patience_starts_anew_after_the_root_was_away(
    training: Run, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(attending, "FOLDER_PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(attending.time, "monotonic", lambda: now)
    folder = run_folder(training)
    folder.rename(folder.with_name("aside"))
    attend()
    with moved(output_root):
        now = 100.0
        attend()
    attend()
    folder.with_name("aside").rename(folder)
    attend()  # it is there again
    folder.rename(folder.with_name("aside"))
    now = 104.0
    attend()
    now = 108.0
    attend()
    folder.with_name("aside").rename(folder)
    training.refresh_from_db()
    assert training.status == "running"

    monkeypatch.undo()
    ends_well(training)


@pytest.fixture
def in_use(submit: Submit, scripted: Script) -> None:
    """The database has used its output root: a run was started there."""
    scripted(["say", "trained"])
    assert root_problem() is None
    run = claim_run(run=submit(), host=this_host(), by="test")
    finish_run(run=run, status="failed", reason="test", by="test")


@every_kind
@pytest.mark.usefixtures("in_use")
def test_what_waits_goes_on_waiting(submit: Submit, output_root: Path, away: Away) -> None:
    run = submit(output_dir="a/b")
    with away(output_root):
        assert launching.launch_pending() == 0

    assert launching.launch_pending() == 1
    wait_for(lambda: attend() == 0, "the end")
    run.refresh_from_db()
    assert run.status == "completed"


@pytest.mark.parametrize("path", ["/", "/runs/new", "/runs/{run}"])
@pytest.mark.usefixtures("in_use")
def test_pages_say_that_what_waits_waits_for_the_root(
    submit: Submit,
    output_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    operator: Client,
    user: User,
    path: str,
) -> None:
    run = submit()
    path = path.format(run=run.pk)
    elsewhere = Client(REMOTE_ADDR=FAR_AWAY)
    elsewhere.force_login(user)
    assert "root-notice" not in operator.get(path).content.decode()

    monkeypatch.setattr("runs.services.output_root.ROOT_FREE_BYTES", 2**80)
    assert "The output root is full: no run is started now." in elsewhere.get(path).content.decode()
    assert f"The output root {output_root} is full" in operator.get(path).content.decode()
    assert (
        str(output_root)
        not in elsewhere.get(path).content.decode().split("root-notice")[1].split("</p>")[0]
    )
    with moved(output_root):  # what is not there is not full
        page = operator.get(path).content.decode().split("root-notice")[1].split("</p>")[0]
        assert "The output root is away: no run is started now." in page
        assert "is full" not in page
        assert not output_root.exists()


@pytest.mark.parametrize(
    ("last_moment", "status"), [("make_folder", "pending"), ("write_jsonl", "running")]
)
@pytest.mark.usefixtures("in_use")
def test_a_run_that_is_just_being_started_is_started_later(
    submit: Submit,
    output_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_moment: str,
    status: str,
) -> None:
    """It was failed: its folder could not be written."""
    run = submit()
    real = getattr(launching, last_moment)

    def too_late(*arguments: Any) -> None:
        output_root.rename(output_root.with_name("aside"))
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(launching, last_moment, too_late)
        launching.launch_pending()
    assert not output_root.exists()
    output_root.with_name("aside").rename(output_root)
    run.refresh_from_db()
    assert run.status == status

    launching.launch_pending()
    wait_for(lambda: attend() == 0, "the end")
    run.refresh_from_db()
    assert (run.status, run.stdout) == ("completed", "trained\n")


@pytest.mark.usefixtures("in_use")
def test_a_dry_run_does_not_make_the_root_anew(submit: Submit, output_root: Path) -> None:
    run = submit(dry_run=True)
    with moved(output_root):
        answer_dry_run(claim_run(run=run, host=this_host(), by="test"), by="test")
    assert "The manifest cannot be written" in run.message


# --- bringing an end home -------------------------------------------------------------------------


@pytest.fixture
def ended(submit: Submit, scripted: Script) -> Run:
    """A run whose end is on disk: 40 measurements, output, a result."""
    scripted(["steps", 40, 0], ["put", "result.json", '{"learnt": "sums"}'], ["say", "trained"])
    run = submit()
    assert launching.launch_pending() == 1
    wait_for((run_folder(run) / names.EXIT).exists, "the end")
    os.close(wait_for(lambda: files.try_lock(run_folder(run) / names.LOCK), "the keeper's end"))
    return Run.objects.get(pk=run.pk)


def is_whole(run: Run) -> None:
    run.refresh_from_db()
    assert (run.status, run.stdout, run.step, run.summary) == (
        "completed",
        "trained\n",
        40,
        {"learnt": "sums"},
    )


def test_what_is_read_of_an_end_is_all_there_is(
    ended: Run, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root goes away once exit.json has been read. Measurements, output and result were
    lost."""
    real = homecoming.take_in_metrics

    def late(*arguments: Any, **options: Any) -> int:
        output_root.rename(output_root.with_name("aside"))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(homecoming, "take_in_metrics", late)
        homecoming.bring_home(ended, by="test")
    output_root.with_name("aside").rename(output_root)

    is_whole(ended)


def test_an_end_that_can_be_read_in_part_is_brought_home_later(
    ended: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = homecoming.outcome

    def troubled(*arguments: Any) -> Any:
        monkeypatch.setattr(
            files,
            "open_regular",
            lambda path: (_ for _ in ()).throw(OSError(errno.ESTALE, "stale")),
        )
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(homecoming, "outcome", troubled)
        with pytest.raises(OSError, match="stale"):
            homecoming.bring_home(ended, by="test")
    monkeypatch.undo()
    ended.refresh_from_db()
    assert ended.status == "running"

    attend()

    is_whole(ended)


def test_an_end_that_could_not_be_seen_for_a_moment_is_not_set_aside(
    ended: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attending, "read_end", lambda folder: None)
        attend()

    is_whole(ended)
    assert not list(run_folder(ended).glob("*.broken-*"))


# --- other hosts ----------------------------------------------------------------------------------


@every_kind
def test_the_runs_of_a_silent_host_are_not_lost(
    training: Run, output_root: Path, settings: LazySettings, away: Away
) -> None:
    """What tells its live trainings from dead ones are their locks."""
    settings.TUNIX_HOST_SILENT_SECONDS = settings.TUNIX_HOST_LOST_SECONDS = 0.0
    other = Host.objects.create(name="elsewhere", heartbeat_at=timezone.now())
    Run.objects.update(host=other)
    observer = Observer()
    observer.observe()
    with away(output_root):
        observer.observe()
    observer.observe()
    observer.observe()
    Run.objects.update(host=this_host())

    ends_well(training)


@every_kind
def test_a_keeper_of_a_run_that_was_taken_away_is_not_forgotten(
    training: Run, output_root: Path, away: Away
) -> None:
    other = Host.objects.create(name="elsewhere", heartbeat_at=timezone.now())
    Run.objects.update(host=other)
    with away(output_root):
        stop_taken_away()

    stop_taken_away()

    wait_for((run_folder(training) / names.EXIT).exists, "the keeper's end")


# --- the marker -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_use")
def test_the_message_holds_what_restores_the_marker(output_root: Path) -> None:
    marker = output_root / names.HOSTS / names.ROOT_ID
    content = marker.read_text()
    marker.unlink()

    problem = root_problem() or ""

    assert not marker.exists()
    marker.write_text(problem[problem.index("{") :])
    assert json.loads(marker.read_text()) == json.loads(content)
    assert root_problem() is None


def test_a_missing_folder_says_nothing_without_the_marker(output_root: Path) -> None:
    assert root_problem() is None
    assert is_missing(output_root / "n")
    with unmounted(output_root):
        assert not is_missing(output_root / "n")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("in_use")
def test_an_attendant_that_comes_up_meanwhile_waits(output_root: Path, program: Start) -> None:
    with moved(output_root):
        attendant = program("manage.py", "attend", "--no-workers")
        wait_for(lambda: "is not there" in attendant.said(), "what it waits for")
    wait_for(lambda: "attending " in attendant.said(), "the attendant")


# --- the keeper -----------------------------------------------------------------------------------


class TestKeeper:
    """Its own look at the folder, without the waiting."""

    @pytest.fixture
    def keeper(self, tmp_path: Path) -> Iterator[supervisor.Supervisor]:
        root = tmp_path / "root"
        files_of_hosts = root / names.HOSTS
        files_of_hosts.mkdir(parents=True)
        files.write_json(files_of_hosts / names.ROOT_ID, {"id": "x"})
        run = LaunchedRun(root / "run")
        lock = run.lock()
        yield supervisor.Supervisor(
            str(run.path), lock, supervisor.Command(str(run.path)), os.getpid()
        )
        os.close(lock)

    @staticmethod
    def is_gone(keeper: supervisor.Supervisor) -> bool:
        """What it thinks after it has waited long enough."""
        return keeper._folder_is_gone(keeper.folder_seen + supervisor.FOLDER_GONE_SECONDS)

    @pytest.mark.parametrize("away", [moved, unmounted], ids=lambda kind: kind.__name__)
    def test_trains_on_while_the_root_is_away(
        self, keeper: supervisor.Supervisor, tmp_path: Path, away: Away
    ) -> None:
        with away(tmp_path / "root"):
            assert not self.is_gone(keeper)
        assert not self.is_gone(keeper)

    @pytest.mark.parametrize("what", ["run", "."])
    def test_ends_when_the_folder_or_all_is_removed(
        self, keeper: supervisor.Supervisor, tmp_path: Path, what: str
    ) -> None:
        shutil.rmtree(tmp_path / "root" / what)
        assert self.is_gone(keeper)

    def test_ends_when_the_folder_is_moved(self, keeper: supervisor.Supervisor) -> None:
        os.rename(keeper.folder, keeper.folder + " aside")
        assert self.is_gone(keeper)

    def test_writes_the_end_once_the_root_is_back(
        self, keeper: supervisor.Supervisor, tmp_path: Path
    ) -> None:
        """It gave up at once, and a completed training counted as lost."""
        looked = threading.Event()
        real = keeper._folder_is_there

        def look() -> bool:
            there = real()
            looked.set()
            return there

        keeper._folder_is_there = look  # type: ignore[method-assign]
        end = records.exit_record(
            run_id=keeper.command.run_id, reason="exit", message="", exit_code=0
        )
        with moved(tmp_path / "root"):
            writer = threading.Thread(target=keeper._write_exit, args=(end,))
            writer.start()
            assert looked.wait(60)
        writer.join()
        assert files.read_json(Path(keeper.folder) / names.EXIT) == end


@pytest.mark.django_db(transaction=True)
@every_kind
def test_readers_say_that_the_root_is_away_instead_of_that_there_is_nothing(
    training: Run, output_root: Path, away: Away, api: APIClient
) -> None:
    with away(output_root):
        for part in ("logs", "artifacts", "manifest"):
            answer = api.get(f"/api/tunix/runs/{training.pk}/{part}")
            assert (answer.status_code, "output root" in answer.json()["detail"]) == (503, True), (
                part
            )
    assert api.get(f"/api/tunix/runs/{training.pk}/manifest").status_code == 200

    ends_well(training)
