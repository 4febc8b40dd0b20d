"""Install what requirements/ locks into a virtual environment:  install.py FOLDER [EXTRA...]

`install.py --requirements EXTRA...` prints what pyproject.toml asks for under these names.

Each file of requirements/ names every package by its exact version and the hashes of its files;
what has another hash is refused, whichever index it comes from. Nothing is done, and no network
needed, when the environment already holds it by its stamp.

uv does the work where it can: it downloads side by side and compiles nothing beforehand, which
takes core and runtime from minutes to seconds on two cores (CONTRIBUTING.md has the numbers). It is
told pip's own settings (index, certificates, constraints …), since those may be the only way to the
packages here; when it fails all the same, pip does the work. Additional indexes are pip's alone.
The project itself is not installed: it has an application named `datasets`, like Hugging Face's
library.
"""

import ast
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "locked.json"


def read_requirements() -> dict[str, list[str]]:
    """Set of requirements → its lines: ``core`` and each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"core": project["dependencies"], **project["optional-dependencies"]}


def lock_file(name: str) -> Path:
    """Return the lock of the core (``core``), or of the core with one extra."""
    return ROOT / "requirements" / f"{name}.txt"


def python_version(folder: Path) -> str:
    """Return the version of Python in the environment, whose link may lead to another one now."""
    command = [folder / "bin" / "python", "-c", "import sys; print(sys.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_stamp(folder: Path) -> dict[str, str]:
    """Return the locks that the environment holds: name → digest. Return None when there is no
    environment, or for another Python."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
        return dict(stamp["locks"]) if stamp["python"] == python_version(folder) else {}
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError):
        return {}


def write_stamp(folder: Path, held: dict[str, str]) -> None:
    stamp = {"python": python_version(folder), "locks": held}
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")


def pip_settings(python: Path) -> dict[str, list[str]]:
    """Return what pip is set up with here, by files and by variables: option → values."""
    listed = subprocess.run(
        [python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    sections: dict[str, dict[str, list[str]]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in sections:
            sections[section][option] = str(ast.literal_eval(value)).split()
    # As in pip: what is set for `install` goes before what is set for all commands, variables go
    # before files.
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_options(settings: dict[str, list[str]], environment: dict[str, str]) -> list[str]:
    """pip's settings in uv's words; certificates go into ``environment``."""
    if any(name.startswith(("UV_INDEX", "UV_DEFAULT_INDEX")) for name in environment):
        return []  # the user has configured uv
    # Not extra-index-url: of a name that two indexes know, either one could be meant. With hashes
    # pip may look at all of them.
    words = {
        "index-url": "--default-index",
        "find-links": "--find-links",
        "constraint": "--constraint",
        "trusted-host": "--allow-insecure-host",
    }
    options = []
    for option, word in words.items():
        for value in settings.get(option, []):
            if not value.startswith("file://") or Path(value.removeprefix("file://")).exists():
                options += [word, value]
    if settings.get("no-index", ["false"])[0].lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    if "cert" in settings:
        environment.setdefault("SSL_CERT_FILE", settings["cert"][0])
    if "proxy" in settings:
        environment.setdefault("HTTPS_PROXY", settings["proxy"][0])
        environment.setdefault("HTTP_PROXY", settings["proxy"][0])
    return options


def run(command: list[str | Path], environment: dict[str, str] | None = None) -> bool:
    """Run with a sign of life every ten seconds; each package's own line is left out. True when it
    succeeded."""
    started = time.monotonic()
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(10):
            print(f"  … {time.monotonic() - started:.0f} s", flush=True)

    threading.Thread(target=tell, daemon=True).start()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith(
                (
                    " + ",
                    " - ",
                    " ~ ",
                    "Requirement already",
                    "  Using cached",
                    "Using Python",
                    "WARNING: Location",
                )
            ):
                print(f"  {line.rstrip()[:160]}", flush=True)
    ended.set()
    return process.returncode == 0


def find_uv(folder: Path) -> Path:
    return folder / "bin" / "uv"


def install(folder: Path, locks: list[Path]) -> None:
    """Bring the environment to what ``locks`` say. They are complete, so nothing that they do not
    name is installed."""
    python = folder / "bin" / "python"
    environment = dict(os.environ)
    options = uv_options(pip_settings(python), environment)
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    wanted: list[str | Path] = [word for lock in locks for word in ("--requirement", lock)]
    uv = find_uv(folder)
    if run([*pip, "--quiet", "--requirement", lock_file("uv")]) and run(
        [
            uv,
            "pip",
            "install",
            "--python",
            python,
            "--no-deps",
            "--no-progress",
            "--color",
            "never",
            *options,
            *wanted,
        ],
        environment,
    ):
        return
    print("uv could not install the packages; pip will, which takes longer.", flush=True)
    # Compiling everything beforehand is most of pip's time, and most of it is never imported.
    if not run([*pip, "--no-compile", *wanted]):
        sys.exit(f"The packages could not be installed into {folder}; the lines above say why.")


def main(folder: Path, extras: list[str]) -> None:
    wanted = {
        name: hashlib.sha256(lock_file(name).read_bytes()).hexdigest()
        for name in extras or ["core"]
    }
    held = read_stamp(folder)
    if held.items() >= wanted.items():
        return
    started = time.monotonic()
    what = " + ".join(dict.fromkeys(["core", *wanted]))
    print(f"{folder}: installing {what}, Python {sys.version.split()[0]}", flush=True)
    if not held:
        venv.create(folder, with_pip=True, symlinks=True)
    install(folder, [lock_file(name) for name in wanted])
    write_stamp(folder, held | wanted)
    print(f"{folder}: ready after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--requirements":
        print("\n".join(line for extra in sys.argv[2:] for line in read_requirements()[extra]))
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
