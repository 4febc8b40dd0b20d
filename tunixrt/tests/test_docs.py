"""The documents: links lead somewhere, and what they name exists."""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands
from django.urls import URLPattern, URLResolver, get_resolver, resolve

from tunixrt.tests.plugin import ROOT
from tunixrt.tests.test_packaging import make_targets

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)

# Phrases of a translated voice, each with the usual term. "whose", "beside" and the like are
# missing, since they also have a proper use.
BANNED = {
    "anew": "again",
    "as at first": "unchanged",
    "brings? (it|them|that|metrics|the end) home|bring home|com(e|es|ing) home": "record, collect",
    "by hand": "manually",
    "come what may": "always",
    "counts? as none": "is treated as missing",
    "deeds?": "action",
    "first come": "FIFO",
    "for good": "permanently",
    "goes on|go on|went on|going on": "continue",
    "held against": "compared with",
    "mend(ed|s|ing)?": "fix",
    "no(body|thing) waits": "say which process does not wait",
    "nobody|somebody|anybody|whoever": "name the user or process",
    "passes for|passed for": "is treated as",
    "takes? along": "also end, also copy",
    "the news": "status update",
    "the way out": "solution",
    "what waits": "waiting runs",
    "whatever happened": "regardless of",
    "(who|what) came first": "FIFO",
}
# What a function does begins with a verb: "Return what …", "Raise … if …". ruff's D401 finds verbs
# in another form and articles; these words are beginnings of nouns that it lets pass.
NOUNS = {
    *("A", "An", "The", "One", "All", "Every", "Those", "Its"),
    *("What", "Whether", "Where", "How", "Why", "Which", "Whose", "Who"),
}
# These documents are not rewritten yet; take a name off when one is.
NOT_REWRITTEN: set[str] = set()
CODE = sorted(
    path
    for top in ("runs", "datasets", "tunixrt", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
    if not {"tests", "parity_tests", "migrations"} & set(path.parts)
)

PAGES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted(
    path
    for path in (ROOT / "tunixrt" / "static").rglob("*.*")
    if path.suffix in (".js", ".css") and "vendor" not in path.parts
)


def banned_phrases(text: str) -> dict[str, str]:
    """Return the banned phrases in a text, each with the term to use."""
    text = " ".join(text.split())
    return {
        match[0]: term
        for phrase, term in BANNED.items()
        for match in re.finditer(rf"\b({phrase})\b", text, re.IGNORECASE)
    }


def prose_of(source: str) -> str:
    """Return the comments and docstrings of a Python module."""
    docstrings = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    comments = [
        token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return "\n".join([*docstrings, *comments])


def headings(path: Path) -> set[str]:
    """Anchors as GitHub makes them of a document's headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def api_routes(patterns: list[URLPattern | URLResolver], prefix: str = "") -> Iterator[str]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from api_routes(pattern.url_patterns, route)
        elif route.startswith("api/"):
            yield "/" + route


def test_the_documents_are_found():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {path.name for path in DOCUMENTS}
    assert len(DOCUMENTS) >= 12


@each_document
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            assert anchor in headings(linked), target


@each_document
def test_make_targets_exist(path: Path):
    code = re.findall(r"`make ([^`]+)`|^make (.+)$", path.read_text(), re.MULTILINE)
    named = {
        word
        for spans in code
        for span in spans
        for word in span.partition("#")[0].split()
        if "=" not in word
    }

    assert named <= make_targets()


@each_document
def test_commands_exist(path: Path):
    assert set(re.findall(r"manage\.py ([a-z_]+)", path.read_text())) <= get_commands().keys()


@each_document
def test_no_machine_of_ours_is_named(path: Path):
    assert not re.search(r"/(root|home|Users|work|tmp)/", path.read_text())


@pytest.mark.parametrize(
    "path",
    [path for path in DOCUMENTS if path.name not in NOT_REWRITTEN],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_banned_phrase_is_used(path: Path):
    assert not banned_phrases(path.read_text()), "replace each phrase by its term"


def test_no_banned_phrase_is_used_in_comments_and_docstrings():
    found = {
        str(path.relative_to(ROOT)): phrases
        for path in CODE
        if (phrases := banned_phrases(prose_of(path.read_text())))
    }

    assert len(CODE) > 100
    assert not found, "replace each phrase by its term"


def test_no_banned_phrase_is_used_in_pages_and_scripts():
    found = {
        str(path.relative_to(ROOT)): phrases
        for path in [*PAGES, *SCRIPTS]
        if (phrases := banned_phrases(path.read_text()))
    }

    assert len(PAGES) > 40
    assert len(SCRIPTS) > 10
    assert not found, "replace each phrase by its term"


def functions_that_are_nouns(source: str) -> list[str]:
    """Return functions, but no properties, whose docstrings begin with one of NOUNS."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any("property" in ast.unparse(one) for one in node.decorator_list)
        and (ast.get_docstring(node) or "").partition(" ")[0] in NOUNS
    ]


def test_docstrings_of_functions_begin_with_a_verb():
    found = {
        str(path.relative_to(ROOT)): names
        for path in CODE
        if (names := functions_that_are_nouns(path.read_text()))
    }

    assert not found, "say what the function does: Return …, Raise …, Write …"


def test_a_noun_is_found_in_functions_alone():
    function = 'def f():\n    """What it is."""\n'

    assert functions_that_are_nouns(function) == ["f"]
    assert functions_that_are_nouns(f"@property\n{function}") == []


def test_prose_is_comments_and_docstrings():
    source = '"""Done anew."""\n\nanew = "by hand"  # nobody\n# goes\n# on\n'

    assert banned_phrases(prose_of(source)).keys() == {"anew", "nobody", "goes on"}


def test_every_route_of_the_api_has_an_example_and_every_example_a_route():
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    # $run_id, {id} and sums-v1 stand for a parameter, and so are taken for one by the route
    written = {
        re.sub(r"[${}]", "", path) for path in re.findall(r"(?<!\w)/api/[\w/$.{}-]*[\w}]", text)
    }

    assert {"/" + resolve(path).route for path in written} == set(
        api_routes(get_resolver().url_patterns)
    )


def test_routes_in_the_readme_exist():
    for path in re.findall(r"127\.0\.0\.1:8000(/[\w/.-]*)", (ROOT / "README.md").read_text()):
        resolve(path)


def test_the_help_lists_every_target_with_a_sentence():
    help_text = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    listed = set(re.findall(r"^  make ([a-z-]+) +\S", help_text, re.MULTILINE))
    assert {
        "demo",
        "test",
        "test-core",
        "test-parity",
        "serve",
        "lint",
        "format",
        "clean",
    } <= listed
    assert listed <= make_targets()


def test_decisions_are_numbered_dated_by_status_and_linked():
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    architecture = (ROOT / "docs" / "architecture.md").read_text()

    assert [path.name[:4] for path in records] == [
        f"{number:04}" for number in range(1, len(records) + 1)
    ]
    for path in records:
        assert re.search(
            r"^Status: (accepted|accepted; amended by \[\d+\]\(\d{4}-[\w-]+\.md\)|superseded by"
            r" \d+)$",
            path.read_text(),
            re.MULTILINE,
        )
        assert {"## Context", "## Decision", "## Consequences"} <= set(
            path.read_text().splitlines()
        )
        assert f"(adr/{path.name})" in architecture


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize(("app", "place"), [("runs", 1), ("datasets", 3)])
def test_the_picture_of_the_layers_is_the_contract(app: str, place: int):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == f"{app}-layers")
    picture = ARCHITECTURE.partition("## Layers")[2].split("```")[place].strip().splitlines()
    assert [" | ".join(re.split(r"  +", line)[0].split(" · ")) for line in picture] == layers


def test_each_behaviour_is_two_hops_away():
    """Both functions exist where the table says, the first names the second, and so does its test
    file exist."""
    table = ARCHITECTURE.partition("## Where a behaviour is")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| .* \| `(\S+\.py)` `(\w+)` \| `(\S+\.py)` `(\w+)` \| `(\S+\.py)` \|$",
        table,
        re.MULTILINE,
    )
    assert len(rows) >= 10
    for first_path, first, second_path, second, test in rows:
        for path, name in ((first_path, first), (second_path, second)):
            assert re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (
                f"{path} has no {name}"
            )
        body = re.split(
            rf"^(?:def|class) {first}\b",
            (ROOT / first_path).read_text(),
            maxsplit=1,
            flags=re.MULTILINE,
        )[1]
        assert re.search(rf"\b{second}\b", body), (
            f"{first} in {first_path} does not lead to {second}"
        )
        assert (ROOT / test).is_file()
