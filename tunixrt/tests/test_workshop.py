"""The scripts behind the make targets: environments and the floor of the coverage."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tunixrt.tests.plugin import ROOT


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load("install")


def test_the_requirements_are_those_of_the_project():
    declared = install.read_requirements()

    assert declared.keys() == {"core", "tunix", "dev", "parity"}
    assert any(line.startswith("Django>=") for line in declared["core"])
    assert not any(line.startswith(("google-tunix", "jax", "torch")) for line in [*declared["core"], *declared["dev"]])


def test_pip_settings_are_passed_on_in_the_words_of_uv(tmp_path: Path):
    here = tmp_path.as_uri()
    settings = {
        "index-url": ["https://packages.example/simple"],
        "extra-index-url": [here, "file:///no/such/folder"],
        "find-links": ["/wheels"],
        "constraint": ["/etc/constraints.txt"],
        "cert": ["/etc/ca.pem"],
        "proxy": ["http://proxy.example:3128"],
        "timeout": ["60"],
    }
    environment: dict[str, str] = {}

    assert install.uv_options(settings, environment) == [
        *("--index-strategy", "unsafe-best-match"),
        *("--default-index", "https://packages.example/simple"),
        *("--index", here),
        *("--find-links", "/wheels"),
        *("--constraint", "/etc/constraints.txt"),
    ]
    assert environment["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert environment["HTTPS_PROXY"] == "http://proxy.example:3128"


def test_uv_that_somebody_has_set_up_is_left_alone():
    assert install.uv_options({"index-url": ["https://a.example"]}, {"UV_DEFAULT_INDEX": "https://b.example"}) == []


def test_pip_settings_come_from_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://files.example/simple\n[install]\nfind-links = /a\n  /b\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CONSTRAINT", "/etc/constraints.txt")

    settings = install.pip_settings(Path(sys.executable))

    assert settings["index-url"] == ["https://files.example/simple"]
    assert settings["constraint"] == ["/etc/constraints.txt"]
    monkeypatch.setenv("PIP_FIND_LINKS", "/c")
    assert install.pip_settings(Path(sys.executable))["find-links"] == ["/c"]


def environment_script(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/environment with no index to ask."""
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "UV_NO_INDEX": "1"}
    return subprocess.run(
        [ROOT / ".ci" / "environment", folder, "dev"],
        env=os.environ | nowhere | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def make_stamp(folder: Path, **changes: Any) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    declared = install.read_requirements()
    stamp = {"python": install.python_version(folder), "requirements": declared["core"] + declared["dev"], **changes}
    (folder / install.STAMP).write_text(json.dumps(stamp))


def test_an_environment_that_holds_everything_is_left_alone_without_a_network(tmp_path: Path):
    folder = tmp_path / "an environment"
    make_stamp(folder)

    ended = environment_script(folder, PYTHON=sys.executable)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("changes", [{"python": "2.7"}, {"requirements": ["Django>=1"]}])
def test_another_python_or_other_requirements_make_it_new(tmp_path: Path, changes: dict[str, Any]):
    folder = tmp_path / "environment"
    make_stamp(folder, **changes)

    assert install.read_stamp(folder).isdisjoint(install.read_requirements()["core"])


def test_no_python_that_fits_is_said_in_words(tmp_path: Path):
    ended = environment_script(tmp_path / "environment", PYTHON=str(tmp_path / "python2"))

    assert ended.returncode == 1
    assert "Python 3.11 or newer" in ended.stderr


@pytest.mark.parametrize(
    ("lines", "branches", "code"),
    [((95, 100), (90, 100), 0), ((949, 1000), (100, 100), 1), ((100, 100), (899, 1000), 1), ((5, 5), (0, 0), 0)],
)
def test_lines_and_branches_have_a_floor_each(tmp_path: Path, lines: tuple[int, int], branches: tuple[int, int], code: int):
    summary = {
        "covered_lines": lines[0],
        "num_statements": lines[1],
        "covered_branches": branches[0],
        "num_branches": branches[1],
    }
    report = tmp_path / "coverage.json"
    report.write_text(json.dumps({"files": {"a.py": {"summary": summary, "missing_lines": [1]}}, "totals": summary}))

    ended = subprocess.run(
        [sys.executable, ROOT / ".ci" / "coverage_floor.py", report], capture_output=True, text=True, check=False
    )

    assert ended.returncode == code
    assert ("a.py" in ended.stdout) is (code == 1)
