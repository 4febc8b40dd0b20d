"""Lock what the environments hold:  lock.py [--newest]     (`make lock`, `make lock NEWEST=1`)

Writes the files of requirements/ from pyproject.toml: exact versions of everything, for every
Python that the project supports, with the hashes of their files. What is locked already keeps its
version as long as pyproject.toml allows it; with --newest everything moves to the newest version.
Only the one index that pip is set up with is asked, never an additional one, and no address is
written.

The first line of each file holds a digest of the requirements it was made from; a test compares it
with pyproject.toml.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import install

# File → the sets of requirements in pyproject.toml that it locks together.
LOCKS = {
    "core": ["core"],
    "tunix": ["core", "tunix"],
    "dev": ["core", "dev"],
    "uv": ["uv"],
    "torch": ["core", "tunix", "dev", "parity", "bench"],
}
# PyTorch is another file on every index (for CPU, for each CUDA): its environments are held to
# versions alone.
WITHOUT_HASHES = {"torch"}


def digest(names: list[str]) -> str:
    """Of the requirements that a lock is made from."""
    declared = install.read_requirements()
    return hashlib.sha256(
        "\n".join(line for name in names for line in sorted(declared[name])).encode()
    ).hexdigest()


def header(lock: str) -> str:
    return (
        f"# requirements {digest(LOCKS[lock])}, locked by `make lock`: change pyproject.toml, not"
        " this file\n"
    )


def compile_lock(lock: str, output: Path, *, consistent_with: Path | None, newest: bool) -> None:
    """Have uv resolve one lock into ``output``, whose content, if any, says which versions to
    prefer."""
    declared = install.read_requirements()
    environment = dict(os.environ)
    settings = install.pip_settings(Path(sys.executable))
    command: list[str | Path] = [
        install.find_uv(Path(sys.prefix)),
        "pip",
        "compile",
        "-",
        "--output-file",
        output,
    ]
    command += [
        "--universal",
        "--python-version",
        "3.11",
        "--no-header",
        "--no-annotate",
        "--quiet",
        "--color",
        "never",
    ]
    command += [] if lock in WITHOUT_HASHES else ["--generate-hashes"]
    command += ["--constraint", consistent_with] if consistent_with else []
    command += ["--upgrade"] if newest else []
    command += install.uv_options(settings | {"constraint": [], "find-links": []}, environment)
    requirements = "\n".join(line for name in LOCKS[lock] for line in declared[name])
    subprocess.run(
        command, input=requirements, env=environment, text=True, check=True, cwd=install.ROOT
    )


def main(newest: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        # All together first, so that every file has the same version of what it shares with another
        # one.
        together = Path(scratch) / "together.txt"
        if install.lock_file("torch").exists():
            together.write_text(install.lock_file("torch").read_text())
        compile_lock("torch", together, consistent_with=None, newest=newest)
        for lock in LOCKS:
            output = Path(scratch) / f"{lock}.txt"
            compile_lock(
                lock, output, consistent_with=together if lock != "uv" else None, newest=newest
            )
            install.lock_file(lock).write_text(header(lock) + output.read_text())
            print(f"  requirements/{lock}.txt")


if __name__ == "__main__":
    main(newest="--newest" in sys.argv[1:])
