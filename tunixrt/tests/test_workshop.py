"""The scripts behind the make targets: environments, their locks, and the floor of the coverage."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tunixrt.tests.plugin import ROOT


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load("install")
lock = load("lock")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def test_the_requirements_are_those_of_the_project():
    declared = install.read_requirements()

    assert declared.keys() == {*("core", "tunix", "hub", "parquet", "dev", "parity", "bench", "uv")}
    assert any(line.startswith("Django>=") for line in declared["core"])
    assert not any(
        line.startswith(("google-tunix", "jax", "torch"))
        for line in [*declared["core"], *declared["dev"]]
    )


def read_lock(name: str, python: str) -> dict[str, tuple[str, list[str]]]:
    """What a lock installs on Linux with that Python: package → version, hashes."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in re.split(
        r"\n(?=\S)", install.lock_file(name).read_text().split("\n", 1)[1].strip()
    ):
        requirement = Requirement(entry.split("\\", 1)[0])
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            package = canonicalize_name(requirement.name)
            assert package not in found, f"{package} twice"
            found[package] = (pin.version, re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
    return found


@pytest.mark.parametrize("name", lock.LOCKS)
def test_a_lock_is_that_of_the_requirements(name: str):
    """Otherwise: `make lock`."""
    assert install.lock_file(name).read_text().startswith(lock.header(name))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", lock.LOCKS)
def test_a_lock_has_one_version_of_every_requirement(name: str, python: str):
    locked = read_lock(name, python)
    declared = install.read_requirements()

    for line in (line for part in lock.LOCKS[name] for line in declared[part]):
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)][0]), line
    assert all(hashes for _, hashes in locked.values()) or name in lock.WITHOUT_HASHES


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_agree_so_that_an_environment_may_hold_several(python: str):
    everything = {package: version for package, (version, _) in read_lock("torch", python).items()}

    for name in ("core", "tunix", "dev"):
        locked = {package: version for package, (version, _) in read_lock(name, python).items()}
        assert locked.items() <= everything.items(), name


def test_locks_name_no_address_and_torch_by_version_only():
    for name in lock.LOCKS:
        text = install.lock_file(name).read_text()
        assert not re.search(r"://|^-|\s@\s", text, re.MULTILINE), name
    assert "--hash" not in install.lock_file("torch").read_text()
    assert not any("torch" in read_lock(name, "3.13") for name in lock.LOCKS if name != "torch")


def test_the_locks_are_all_of_the_folder():
    assert {path.stem for path in (ROOT / "requirements").iterdir()} == set(lock.LOCKS)


def test_pip_settings_are_passed_on_in_the_words_of_uv(tmp_path: Path):
    here = tmp_path.as_uri()
    settings = {
        "index-url": ["https://packages.example/simple"],
        "extra-index-url": ["https://other.example/simple"],
        "find-links": [here, "/wheels", "file:///no/such/folder"],
        "constraint": ["/etc/constraints.txt"],
        "cert": ["/etc/ca.pem"],
        "proxy": ["http://proxy.example:3128"],
        "timeout": ["60"],
    }
    environment: dict[str, str] = {}

    assert install.uv_options(settings, environment) == [
        *("--default-index", "https://packages.example/simple"),
        *("--find-links", here),
        *("--find-links", "/wheels"),
        *("--constraint", "/etc/constraints.txt"),
    ]
    assert environment["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert environment["HTTPS_PROXY"] == "http://proxy.example:3128"


def test_an_additional_index_is_never_one_that_uv_may_take_a_package_from():
    """Whoever registers a private package's name on the other index would be installed (dependency
    confusion)."""
    options = install.uv_options({"extra-index-url": ["https://other.example/simple"]}, {})

    assert options == []
    assert (
        "index-strategy"
        not in (ROOT / ".ci" / "install.py").read_text() + (ROOT / ".ci" / "lock.py").read_text()
    )


def test_uv_that_somebody_has_set_up_is_left_alone():
    assert (
        install.uv_options(
            {"index-url": ["https://a.example"]}, {"UV_DEFAULT_INDEX": "https://b.example"}
        )
        == []
    )


def test_pip_settings_come_from_files_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://files.example/simple\n[install]\nfind-links = /a\n  /b\n"
    )
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
    held = {"dev": hashlib.sha256(install.lock_file("dev").read_bytes()).hexdigest()}
    stamp = {"python": install.python_version(folder), "locks": held, **changes}
    (folder / install.STAMP).write_text(json.dumps(stamp))


def test_an_environment_that_holds_everything_is_left_alone_without_a_network(tmp_path: Path):
    folder = tmp_path / "an environment"
    make_stamp(folder)

    ended = environment_script(folder, PYTHON=sys.executable)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "changes", [{"python": "2.7"}, {"locks": {"dev": "of another day"}}, {"locks": {"core": "x"}}]
)
def test_another_python_or_another_lock_make_it_new(tmp_path: Path, changes: dict[str, Any]):
    folder = tmp_path / "environment"
    make_stamp(folder, **changes)

    assert (
        install.read_stamp(folder).get("dev")
        != hashlib.sha256(install.lock_file("dev").read_bytes()).hexdigest()
    )


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with one wheel, `twin`, of two contents: the file that is there is not the one that
    was locked."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "twin-1.0-py3-none-any.whl", "w") as file:
        file.writestr("twin.py", "")
        file.writestr(
            "twin-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: twin\nVersion: 1.0\n"
        )
        file.writestr(
            "twin-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(
            "twin-1.0.dist-info/RECORD",
            "twin.py,,\ntwin-1.0.dist-info/METADATA,,\ntwin-1.0.dist-info/WHEEL,,\n",
        )
    return folder


def test_a_file_with_another_hash_is_installed_neither_by_uv_nor_by_pip(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    (purelib,) = environment.glob("lib/*/site-packages")
    # pip: installing it takes ten seconds
    (purelib / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    (environment / "bin" / "uv").symlink_to(Path(sys.prefix) / "bin" / "uv")
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONSTRAINT": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(install, "lock_file", lambda name: tmp_path / f"{name}.txt")
    (content,) = wheels.iterdir()
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    (tmp_path / "uv.txt").touch()
    (tmp_path / "good.txt").write_text(f"twin==1.0 --hash=sha256:{digest}\n")
    (tmp_path / "bad.txt").write_text(f"twin==1.0 --hash=sha256:{digest[::-1]}\n")

    with pytest.raises(SystemExit):
        install.install(environment, [tmp_path / "bad.txt"])
    by_uv, by_pip = capfd.readouterr().out.split("uv could not install the packages")
    assert "Hash mismatch" in by_uv
    assert "DO NOT MATCH THE HASHES" in by_pip
    assert not list(purelib.glob("twin*"))

    install.install(environment, [tmp_path / "good.txt"])
    assert "uv could not" not in capfd.readouterr().out
    assert (purelib / "twin.py").exists()


def test_no_python_that_fits_is_said_in_words(tmp_path: Path):
    ended = environment_script(tmp_path / "environment", PYTHON=str(tmp_path / "python2"))

    assert ended.returncode == 1
    assert "Python 3.11 or newer" in ended.stderr


@pytest.mark.parametrize(
    ("lines", "branches", "code"),
    [
        ((95, 100), (90, 100), 0),
        ((949, 1000), (100, 100), 1),
        ((100, 100), (899, 1000), 1),
        ((5, 5), (0, 0), 0),
    ],
)
def test_lines_and_branches_have_a_floor_each(
    tmp_path: Path, lines: tuple[int, int], branches: tuple[int, int], code: int
):
    summary = {
        "covered_lines": lines[0],
        "num_statements": lines[1],
        "covered_branches": branches[0],
        "num_branches": branches[1],
    }
    report = tmp_path / "coverage.json"
    report.write_text(
        json.dumps(
            {"files": {"a.py": {"summary": summary, "missing_lines": [1]}}, "totals": summary}
        )
    )

    ended = subprocess.run(
        [sys.executable, ROOT / ".ci" / "coverage_floor.py", report],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == code
    assert ("a.py" in ended.stdout) is (code == 1)
