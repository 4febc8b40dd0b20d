"""A second kind, for tests of what goes by the kind of a run."""

import pytest

from runs.spec.kinds import KINDS, Better, Kind, Measure
from runs.spec.parameters import Parameter, with_shared

PAIRS = Kind(
    name="pairs",
    label="Pairs",
    parameters=with_shared(Parameter("beta", float, 0.1, "Strength.", 0, 10)),
    dataset_formats=("tunix_pairs",),
    metrics={"margin": Measure("margin", "Margin", "Of the rewards.", Better.HIGHER)},
    results={"margin_last": Measure("margin_last", "Margin last", "At the end.", Better.HIGHER)},
)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A kind beside those that there are."""
    monkeypatch.setitem(KINDS, PAIRS.name, PAIRS)
    return PAIRS
