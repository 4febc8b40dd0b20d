"""docker-compose.yml and the Dockerfile as Docker reads them, so that tests can run each command in
the environment it would get.

Written after Docker's reference of interpolation and of precedence: what `environment` says goes
before `env_file`, and that before the image. In values, `$NAME`, `${NAME}` with `:-`, `-`, `:?`,
`?`, `:+` and `+`, and `$$` for a dollar sign.
"""

import io
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml
from dotenv import dotenv_values

from tunixrt.tests.plugin import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
_NAME = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)(:?[-?+])?)")


class MissingVariable(ValueError):
    """A variable that the composition requires is not there; the message is its own."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Put variables into one value. Raises MissingVariable."""
    done, at = "", 0
    while match := _NAME.search(text, at):
        done += text[at : match.start()]
        dollar, plain, name, operator = match.groups()
        at = match.end()
        if dollar:
            done += "$"
        elif plain:
            done += variables.get(plain, "")
        else:
            end = _closing_brace(text, at)
            done += _expand(name, operator or "", text[at:end], variables)
            at = end + 1
    return done + text[at:]


def _closing_brace(text: str, at: int) -> int:
    depth = 1
    for index in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"no closing brace: {text}")


def _expand(name: str, operator: str, word: str, variables: Mapping[str, str]) -> str:
    value = variables.get(name)
    there = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("-"):
        return value or "" if there else interpolate(word, variables)
    if operator.endswith("+"):
        return interpolate(word, variables) if there else ""
    if operator.endswith("?") and not there:
        raise MissingVariable(f"{name}: {interpolate(word, variables)}")
    return value or ""


def interpolated(part: Any, variables: Mapping[str, str]) -> Any:
    """A copy of a part of the composition with variables in every value."""
    if isinstance(part, dict):
        return {key: interpolated(value, variables) for key, value in part.items()}
    if isinstance(part, list):
        return [interpolated(value, variables) for value in part]
    return interpolate(part, variables) if isinstance(part, str) else part


class Composition:
    """The composition beside a `.env` with this text, where `shell` is set as well. Raises
    MissingVariable."""

    def __init__(self, dotenv: str = "", **shell: str):
        self.dotenv = {
            name: value or ""
            for name, value in dotenv_values(stream=io.StringIO(dotenv), interpolate=False).items()
        }
        self.variables = self.dotenv | shell
        self.services: dict[str, dict[str, Any]] = interpolated(COMPOSE["services"], self.variables)

    def environment(self, name: str) -> dict[str, str]:
        """What a container's first process is given."""
        service = self.services[name]
        of_image = image_environment() if "build" in service else {}
        of_file = {}
        for file in service.get("env_file", []):
            assert file == {"path": ".env", "required": False}
            of_file = self.dotenv
        of_service = {
            key: value if value is not None else self.variables.get(key)
            for key, value in service["environment"].items()
        }
        return (
            of_image
            | of_file
            | {key: value for key, value in of_service.items() if value is not None}
        )


def final_image() -> str:
    """The last stage of the Dockerfile, its continued lines joined."""
    return re.sub(r"\\\n", " ", DOCKERFILE.rpartition("\nFROM ")[2])


def image_environment() -> dict[str, str]:
    (line,) = re.findall(r"^ENV (.+)$", final_image(), re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(line))


def exec_form(instruction: str) -> list[str]:
    """The argument vector of `CMD` or `HEALTHCHECK` in the image."""
    (line,) = re.findall(rf"^{instruction}.*?(\[.+\])\s*$", final_image(), re.MULTILINE)
    return [str(word) for word in yaml.safe_load(line)]
