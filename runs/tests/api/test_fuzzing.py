"""schemathesis against a real server: what it answers is what its OpenAPI document allows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fuzz_api import cases_in, fuzz
from runs.tests.browser.house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, TUNIX_SYNC_TIMEOUT_SECONDS="2")
    house.add_dataset("sums")  # that the examples name
    yield house
    house.close()


def test_no_answer_is_one_that_the_document_does_not_allow(house: House, tmp_path: Path):
    """No fault of the server, no status, type or body that is not described, alone and in
    sequences. `make fuzz-api` does many more."""
    ended = fuzz(house, examples=3, seed=1, phases="examples,fuzzing,stateful", folder=tmp_path)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert cases_in(ended.stdout) > 100
