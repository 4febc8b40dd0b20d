"""The training program's own tests: a second pytest, isolated from Django and from the project's
``datasets``.

A compilation cache is shared by all tests, by the processes that run them (pytest-xdist) and by the
processes that they start.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

# the first process makes the cache, and removes it at its end
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="trainer-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
# Isolated mode does not reach the processes that run the tests: without this the working folder
# would be on their path.
os.environ["PYTHONSAFEPATH"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("TUNIXRT_CACHE_DIR", None)
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0"  # compiling is most of what these tests do
)

import hypothesis  # noqa: E402 - the path and the environment are set above
import jax  # noqa: E402 - the path and the environment are set above

from runs.trainer.loop.devices import start_devices  # noqa: E402 - the path and the environment are set above
from runs.trainer.tests.helpers import Run, arithmetic, write_llama  # noqa: E402

# As for the tests of the core (tunixrt/tests/plugin.py): neither chance nor a busy machine fails a
# test.
_check = hypothesis.HealthCheck
_PROFILE = hypothesis.settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[_check.too_slow, _check.function_scoped_fixture],
)
hypothesis.settings.register_profile("same", _PROFILE, derandomize=True)
hypothesis.settings.register_profile("search", _PROFILE, derandomize=False)
hypothesis.settings.load_profile("same")


def pytest_terminal_summary(terminalreporter, config):
    """Name the seed also with ``-q``, which leaves pytest-randomly's header out."""
    seed = config.getoption("randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"random order: --randomly-seed={seed} repeats it")


@pytest.fixture(scope="session", autouse=True)
def _devices():
    start_devices()


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs are kept for as long as a process lives; some hundred of them take
    gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _signals():
    """A training in this process catches signals; afterwards they are pytest's again."""
    saved = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in saved.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A Hugging Face folder of a Llama with random weights, small enough to compile in a second."""
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, llama):
    """A finished training of one epoch with the settings of all tests, to be looked at and compared
    with, not to be changed."""
    run = Run.write(
        tmp_path_factory.mktemp("trained") / "run",
        examples=arithmetic(48, held_out=8),
        model=llama,
        training={"num_epochs": 1},
    )
    assert run.train() == 0
    return run


@pytest.fixture
def make_run(tmp_path, llama):
    """``make_run(name, examples=…, model=…, **training)`` writes a run folder and returns a
    ``Run``."""

    def make(
        name="run",
        *,
        examples=None,
        model=None,
        dataset=None,
        resume_from=None,
        extend_from_step=None,
        **training,
    ):
        folder = tmp_path / name
        return Run.write(
            folder,
            examples=examples or arithmetic(48, held_out=8),
            model=model or llama,
            resume_from=resume_from,
            extend_from_step=extend_from_step,
            training=training,
        )

    return make
