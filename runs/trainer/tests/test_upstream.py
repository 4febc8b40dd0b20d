"""The private names of google-tunix that the program uses are those of the list, and they are
still there."""

import ast
import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest

from runs.trainer.upstream import PRIVATE_NAMES, PrivateName

RUNS = Path(__file__).resolve().parents[2]
PROGRAM = [
    path
    for folder in ("trainer", "spec")
    for path in sorted((RUNS / folder).rglob("*.py"))
    if not {"tests", "parity_tests"} & set(path.parts) and path.name != "upstream.py"
]


def is_private(name):
    return (
        name.startswith("_") and not name.startswith("__") and name.isidentifier() and name != "_"
    )


def problem(entry):
    """What is wrong with an entry of the list beside the installed library, or None."""
    module_name, _, class_name = entry.owner.rpartition(".")
    owner = getattr(importlib.import_module(module_name), class_name, None)
    if owner is None:
        return f"{entry.owner} is gone"
    if entry.parameters is None:
        assigned = attributes_assigned(ast.parse(inspect.getsource(owner).lstrip()))
        return None if entry.name in assigned else f"{entry.owner} never sets {entry.name}"
    method = vars(owner).get(entry.name)
    if method is None:
        return f"{entry.owner}.{entry.name} is gone"
    found = tuple(inspect.signature(method).parameters)
    return None if found == entry.parameters else f"{entry.owner}.{entry.name} takes {found}"


def attributes_assigned(tree):
    """Names ``x`` of every ``self.x = …``."""
    targets = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    leaves = [leaf for target in targets for leaf in ast.walk(target)]
    return {
        leaf.attr
        for leaf in leaves
        if isinstance(leaf, ast.Attribute)
        and isinstance(leaf.value, ast.Name)
        and leaf.value.id == "self"
    }


def private_names_of(tree):
    """Every private name that a module of the library defines or uses as an attribute."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return {name for name in names if is_private(name)}


def library_names(tree):
    """``(modules of google-tunix that are imported, names they are bound to, private names taken
    from them)``."""
    modules, bound, taken = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "tunix":
                    modules.add(alias.name)
                    bound.add(alias.asname or "tunix")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tunix":
            for alias in node.names:
                modules |= {node.module, f"{node.module}.{alias.name}"}
                bound.add(alias.asname or alias.name)
                if is_private(alias.name):
                    taken.add(alias.name)
    return modules, bound, taken


def root_of(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def private_uses(tree):
    """Private names in a module of ours that could be the library's.

    These are attributes, strings (for ``getattr``), and what classes derived from the library's
    define, without the names that the module's other classes define."""
    _, bound, used = library_names(tree)
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)
        elif isinstance(node, ast.ClassDef):
            derived = bool({root_of(base) for base in node.bases} & bound)
            defined = attributes_assigned(node) | {
                child.name for child in node.body if isinstance(child, ast.FunctionDef)
            }
            if derived:
                used |= defined
            else:
                own |= defined
    return {name for name in used if is_private(name)} - own


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def library():
    """Private names of the library's modules that the program imports."""
    modules = {name for path in PROGRAM for name in library_names(parse(path))[0]}
    names = set()
    for name in sorted(modules):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # a class in a module
            continue
        if found is not None and found.origin:
            names |= private_names_of(parse(Path(found.origin)))
    return names


@pytest.mark.parametrize("entry", PRIVATE_NAMES, ids=lambda entry: entry.name)
def test_a_listed_name_is_still_there_with_its_parameters(entry):
    assert problem(entry) is None
    assert entry.reason


def test_every_private_name_that_is_used_is_listed(library):
    used = {
        (name, path.relative_to(RUNS).as_posix())
        for path in PROGRAM
        for name in private_uses(parse(path)) & library
    }
    assert used == {(entry.name, file) for entry in PRIVATE_NAMES for file in entry.used_in}


PEFT_TRAINER = "tunix.sft.peft_trainer.PeftTrainer"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (PrivateName("tunix.sft.peft_trainer.Gone", "_x", None, (), ""), "is gone"),
        (PrivateName(PEFT_TRAINER, "_renamed", ("self",), (), ""), "_renamed is gone"),
        (PrivateName(PEFT_TRAINER, "_renamed", None, (), ""), "never sets _renamed"),
        (PrivateName(PEFT_TRAINER, "_train_step", ("self", "batch"), (), ""), "takes ('self', "),
    ],
)
def test_a_change_of_the_library_is_noticed(entry, words):
    assert words in problem(entry)


@pytest.mark.parametrize(
    "use",
    [
        "class T(peft_trainer.PeftTrainer):\n    def _train_step(self): ...",
        "class T(peft_trainer.PeftTrainer):\n    def f(self): self._train_steps = 1",
        "class T(peft_trainer.PeftTrainer):\n    def f(self): return self._lora_enabled",
        "def f(trainer): return trainer._throttler",
        "def f(trainer): return getattr(trainer, '_pbar')",
        "from tunix.sft.peft_trainer import _default_loss_fn",
    ],
)
def test_a_use_that_is_not_listed_is_noticed(library, use):
    assert private_uses(ast.parse(f"from tunix.sft import peft_trainer\n{use}")) & library


def test_names_of_our_own_are_not_taken_for_the_librarys(library):
    ours = "class Loop:\n    def f(self):\n        self._train_step = 1\n        self._train_step"
    assert not private_uses(ast.parse(ours)) & library
