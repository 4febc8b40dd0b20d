"""A tokenizer from ``tokenizer.json``, without ``transformers``.

It has the names that ``ChatTokenizer`` uses, and does what ``transformers`` does with a folder
whose settings name no tokenizer class with rules of its own (``takes_file_as_it_is``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from runs.trainer.errors import ModelError

NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
# For these, transformers takes tokenizer.json as it is; other classes set up parts of their own.
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
MOST_RENDERED = 2**24  # characters


def takes_file_as_it_is(folder: Path) -> bool:
    """Return whether the training program reads the tokenizer from ``tokenizer.json`` alone."""
    return (folder / "tokenizer.json").is_file() and (
        _read_json(folder / "tokenizer_config.json").get("tokenizer_class") in PLAIN_CLASSES
    )


@dataclass(frozen=True, slots=True)
class Encodings:
    """Encodings of several texts, under the name that transformers gives them."""

    encodings: list[Any]


class TokenizerFile:
    """The tokenizer of a folder, read from its ``tokenizer.json``.

    Attributes:
        chat_template: the template, or templates by name; None where there is none.
        all_special_tokens: the named tokens, then further special ones.
    """

    is_fast = True

    def __init__(self, folder: Path):
        """Open a tokenizer. ``folder`` has the form that ``check_tokenizer`` requires. Raise
        ModelError if there is no ``tokenizer.json``, or one that cannot be used."""
        try:
            self.backend_tokenizer = Backend.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises Exception itself
            raise ModelError(
                f"no usable tokenizer in {folder}: tokenizer.json cannot be read: {error}"
            ) from error
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        settings = _read_json(folder / "tokenizer_config.json")
        if "added_tokens_decoder" not in settings:
            settings |= _read_json(folder / "special_tokens_map.json")
        self._named = {name: text for name in NAMED if (text := _text(settings.get(name)))}
        extra = settings.get("extra_special_tokens", settings.get("additional_special_tokens"))
        more = [_text(token) for token in extra] if isinstance(extra, list) else []
        self.all_special_tokens = list(dict.fromkeys([*self._named.values(), *filter(None, more)]))
        self._add_tokens(settings.get("added_tokens_decoder", {}))
        self.chat_template = _read_template(folder, settings)
        self._compiled: dict[str, jinja2.Template] = {}

    def _add_tokens(self, decoder: dict[str, dict[str, Any]]) -> None:
        """Add the tokens that the settings name and ``tokenizer.json`` does not."""
        there = {
            token.content for token in self.backend_tokenizer.get_added_tokens_decoder().values()
        }
        special = set(self._named.values())
        wanted: dict[str, AddedToken] = {}
        for _, given in sorted(decoder.items(), key=lambda item: int(item[0])):
            options = {
                name: bool(given[name])
                for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
                if name in given
            }
            options["special"] = options.get("special", False) or given["content"] in special
            wanted[given["content"]] = AddedToken(given["content"], **options)
        for name in self.all_special_tokens:
            wanted.setdefault(name, AddedToken(name, special=True))
        self.backend_tokenizer.add_tokens(
            [token for name, token in wanted.items() if name not in there]
        )

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    @property
    def bos_token(self) -> str | None:
        return self._named.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self._named.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._id_of("unk_token")

    def _id_of(self, name: str) -> int | None:
        text = self._named.get(name)
        return None if text is None else self.backend_tokenizer.token_to_id(text)

    def __call__(
        self, text: str | list[str], *, add_special_tokens: bool = True, **unused: Any
    ) -> Any:
        """Encode one text to ``{"input_ids": …}``, or several to ``Encodings``."""
        if isinstance(text, str):
            found = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
            return {"input_ids": found.ids}
        return Encodings(
            self.backend_tokenizer.encode_batch(text, add_special_tokens=add_special_tokens)
        )

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool, **unused: Any) -> str:
        return str(
            self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        )

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **unused: Any,
    ) -> str:
        """Render the template. Raise what the template raises, and ValueError for a text that is
        longer than MOST_RENDERED."""
        source = self._template_for(tools)
        template = self._compiled.get(source)
        if template is None:
            template = self._compiled[source] = _environment().from_string(source)
        pieces: list[str] = []
        length = 0
        for piece in template.generate(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._named,
        ):
            length += len(piece)
            if length > MOST_RENDERED:
                raise ValueError(f"it writes more than {MOST_RENDERED:,} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _template_for(self, tools: list[dict[str, Any]] | None) -> str:
        if not isinstance(self.chat_template, dict):
            return str(self.chat_template)
        name = "tool_use" if tools is not None and "tool_use" in self.chat_template else "default"
        if name not in self.chat_template:
            raise ValueError("there are several templates, and none is named default")
        return self.chat_template[name]


def _environment() -> ImmutableSandboxedEnvironment:
    """Return the engine with what chat templates may use, as transformers sets it up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],  # type: ignore[list-item]
        autoescape=False,
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` around what an assistant writes changes nothing here."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    @staticmethod
    def _write(caller: Any) -> Any:
        return caller()


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - what templates expect


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path.name} must hold a JSON object")
    return content


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _read_template(folder: Path, settings: dict[str, Any]) -> str | dict[str, str] | None:
    """Return the template, from files of its own or from the settings."""
    found = {
        path.stem: path.read_text(encoding="utf-8")
        for path in sorted(folder.glob("additional_chat_templates/*.jinja"))
    }
    path = folder / "chat_template.jinja"
    if path.is_file():
        found["default"] = path.read_text(encoding="utf-8")
    if found:
        return found["default"] if found.keys() == {"default"} else found
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {one["name"]: one["template"] for one in template}
    return template
