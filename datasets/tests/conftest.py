from pathlib import Path

import pytest
from django.conf import LazySettings


@pytest.fixture(autouse=True)
def output_root(tmp_path: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output root of this test and of the programs it starts; not made yet."""
    root = (tmp_path / "output").resolve()
    settings.TUNIX_OUTPUT_ROOT = root
    monkeypatch.setenv("TUNIX_OUTPUT_ROOT", str(root))
    return root
