"""What an import by a process of its own reads: an upload in its folder, a file on the server, or a
dataset of the Hugging Face Hub. ``Import.source`` says which, under ``type``."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from datasets.files import folders
from datasets.files.reading import Part
from datasets.imports import data_roots


def parts_of(source: Mapping[str, Any], folder: Path) -> Generator[Part]:
    """Yield the files of an import, each open until the next one is asked for. Raise Refusal,
    OSError."""
    if source.get("type") == "path":
        with data_roots.unchanged(source) as file:
            yield Part(file, str(source["file"]))
    elif source.get("type") == "hub":
        for found in source["data_files"]:
            with (folder / folders.HUB / found["name"]).open("rb") as file:
                yield Part(file, found["name"], found["split"], len(source["data_files"]))
    else:
        with (folder / folders.SOURCE).open("rb") as file:
            yield Part(file, str(source.get("file", "")))


def origin_of(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the provenance says about a source beside its files."""
    if source.get("type") == "path":
        return {"path": source["path"]}
    if source.get("type") == "hub":
        return {name: source[name] for name in ("hub", "revision", "commit")}
    return {}
