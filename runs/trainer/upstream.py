"""The private names of google-tunix that this program uses, and why.

``tests/test_upstream.py`` compares this list with the installed library (a name that was renamed,
removed or given other parameters fails) and with the program (a private name that is used and not
listed fails). Keep the list short: prefer what google-tunix offers in public.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrivateName:
    """``owner``: module and class that have the name. ``parameters``: of a method, as in its
    signature; None for an attribute. ``used_in``: our modules, relative to ``runs``."""

    owner: str
    name: str
    parameters: tuple[str, ...] | None
    used_in: tuple[str, ...]
    reason: str


PRIVATE_NAMES = (
    PrivateName(
        "tunix.sft.peft_trainer.PeftTrainer",
        "_post_process_train_step",
        ("self", "aux"),
        ("trainer/loop/step.py",),
        "Overridden. The one place where train() hands out what a step returns besides its loss;"
        " upstream says to override it for that.",
    ),
    PrivateName(
        "tunix.sft.peft_trainer.PeftTrainer",
        "_buffered_train_metrics",
        None,
        ("trainer/loop/step.py",),
        "Set to None after every step. Upstream would wait for the loss, log it, and keep every"
        " value in a list for the whole training; no option turns that off.",
    ),
    PrivateName(
        "tunix.sft.checkpoint_manager.CheckpointManager",
        "_checkpoint_manager",
        None,
        ("trainer/loop/checkpoints.py",),
        "Read. orbax's manager can list, delete and wait for checkpoints and read their metadata;"
        " upstream's public methods can only save and restore.",
    ),
    PrivateName(
        "tunix.models.gemma3.model.Attention",
        "_query_norm",
        None,
        ("trainer/modeling/attention.py", "spec/architectures.py"),
        "Read. Gemma 3 normalises queries and keys; its modules have no public name.",
    ),
    PrivateName(
        "tunix.models.gemma3.model.Attention",
        "_key_norm",
        None,
        ("trainer/modeling/attention.py", "spec/architectures.py"),
        "As _query_norm.",
    ),
)
