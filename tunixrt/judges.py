"""The judges that an operator has set up: models behind an OpenAI-compatible address."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tunixrt.addresses import problem_with

OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 512}  # unless the operator says others
REQUESTS_MAX = 2_000  # of one judgement, where the operator says nothing
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_FIELDS = {"url", "model", "key", "key_env", "requests_max", "options"}
_KEY = re.compile(r"[\x21-\x7e]{1,1000}")  # it is a part of a header


@dataclass(frozen=True)
class Judge:
    """A judge. ``url``: of its chat completions; ``options``: what a request has besides model and
    messages; ``requests_max``: of one judgement."""

    name: str
    url: str
    model: str
    key: str = field(default="", repr=False)
    requests_max: int = REQUESTS_MAX
    options: Mapping[str, Any] = field(default_factory=lambda: dict(OPTIONS))


def read_judges(value: Any, environment: Mapping[str, str]) -> dict[str, Judge]:
    """Return the judges of TUNIX_JUDGES by name.

    Args:
        value: the parsed JSON.
        environment: where ``key_env`` names a variable.

    Raises:
        ValueError: what is wrong, in a sentence without any key.
    """
    if not isinstance(value, dict):
        raise ValueError('must be an object such as {"name": {"url": …, "model": …}}')
    return {name: _read(name, given, environment) for name, given in value.items()}


def _read(name: str, given: Any, environment: Mapping[str, str]) -> Judge:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:64]!r} must have up to 32 small letters, digits and hyphens")
    if not isinstance(given, dict):
        raise ValueError(f"{name} must be an object")
    if unknown := sorted(given.keys() - _FIELDS):
        raise ValueError(
            f"{name}: unknown {unknown[0][:64]}; known are {', '.join(sorted(_FIELDS))}"
        )
    for field_name in ("url", "model", "key", "key_env"):
        if not isinstance(given.get(field_name, ""), str):
            raise ValueError(f"{name}: {field_name} must be text")
    url, model = given.get("url", ""), given.get("model", "")
    if urlsplit(url).scheme not in ("http", "https") or (problem_with(url, allow_private=True)):
        raise ValueError(f"{name}: url must be an address such as https://host/v1/chat/completions")
    if not 1 <= len(model) <= 128:
        raise ValueError(f"{name}: model must have 1 to 128 characters")
    if "key" in given and "key_env" in given:
        raise ValueError(f"{name}: give key or key_env, not both")
    key = given.get("key", "")
    if variable := given.get("key_env"):
        key = environment.get(variable, "")
        if not key:
            raise ValueError(f"{name}: the variable {variable} of key_env is not set")
    if key and not _KEY.fullmatch(key):
        raise ValueError(f"{name}: the key must be of printable ASCII without blanks")
    most = given.get("requests_max", REQUESTS_MAX)
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 1_000_000:
        raise ValueError(f"{name}: requests_max must be a whole number from 1 to 1,000,000")
    options = given.get("options", OPTIONS)
    if not isinstance(options, dict) or options.keys() & {"model", "messages", "stream", "n"}:
        raise ValueError(f"{name}: options must be an object without model, messages, stream and n")
    if any(isinstance(one, float) and not math.isfinite(one) for one in options.values()):
        raise ValueError(f"{name}: options must be numbers that JSON knows")
    return Judge(name, url, model, key, most, options)
