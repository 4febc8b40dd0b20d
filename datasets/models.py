"""Traces and the immutable, ordered selections of them that runs train on."""

import uuid
import zlib
from array import array
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F
from django.utils import timezone

TRACE_VERSION = "1.0"


class Kind(models.TextChoices):
    """What an example is; all examples of a dataset are of one kind."""

    TRACE = "trace", "trace"
    CONVERSATION = "conversation", "conversation"
    PREFERENCE = "preference", "preference pair"
    PROMPT = "prompt", "prompt"


# What a training program reads of a dataset, by the kind of its examples.
TRAINING_FORMATS = {
    Kind.TRACE: "tunix_sft",
    Kind.CONVERSATION: "tunix_sft",
    Kind.PREFERENCE: "tunix_preference",
    Kind.PROMPT: "tunix_prompts",
}


class Trace(models.Model):
    """One example. The same example is stored once: ``content_hash`` covers everything but id, time
    and person.

    A trace has a prompt, steps and a final answer. Examples of the other kinds have ``content``;
    their ``prompt`` is the beginning of the first question, and ``final_answer`` a reference answer
    or empty. datasets/examples/kinds.py says what ``content`` holds.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.TRACE, editable=False)
    prompt = models.TextField(blank=True)
    steps = models.JSONField(default=list, help_text="Ordered list of {i, type, content}.")
    final_answer = models.TextField(blank=True)
    # JSON as text: a database would change the order of keys, in which templates write tools
    content = models.TextField(default="", blank=True, editable=False)
    meta = models.JSONField(default=dict, blank=True)
    trace_version = models.CharField(max_length=16, default=TRACE_VERSION)
    content_hash = models.CharField(
        max_length=64, unique=True, editable=False, help_text="SHA-256, hexadecimal."
    )
    # Written by Python, not by the database: on SQLite times are text, and the database's own form
    # (milliseconds) would not compare with the form of a cursor.
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        db_index=False,
    )
    # The import that stored it, for as long as that is not complete. No foreign key: it would cost
    # every row of an import an index entry.
    import_id = models.UUIDField(null=True, editable=False)
    erased_at = models.DateTimeField(null=True, editable=False)
    archived_at = models.DateTimeField(
        null=True, editable=False, help_text="Hidden from lists since then."
    )
    sealed_at = models.DateTimeField(
        null=True,
        editable=False,
        help_text="In a sealed dataset since then: only operators read it.",
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            # every list of traces; with the last column, sealed ones are passed over in the index
            models.Index(
                F("created_at").desc(), F("id").desc(), F("sealed_at"), name="ix_traces_listed"
            ),
            # the list of those in the archive; there are few
            models.Index(
                F("created_at").desc(),
                F("id").desc(),
                name="ix_traces_archived",
                condition=models.Q(archived_at__isnull=False),
            ),
            # what no other dataset may have, and who asks whether there is any; there are few
            models.Index(
                fields=["content_hash"],
                name="ix_traces_sealed",
                condition=models.Q(sealed_at__isnull=False),
            ),
            # what must not be stored again; there are few
            models.Index(
                fields=["content_hash"],
                name="ix_traces_erased",
                condition=models.Q(erased_at__isnull=False),
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(kind__in=Kind.values), name="ck_trace_kind"),
        ]

    def __str__(self) -> str:
        return self.prompt[:80]


class WordsField(models.TextField):
    """Words, separated by spaces: a ``tsvector`` on PostgreSQL, text on SQLite."""

    def db_type(self, connection: Any) -> str:
        return "tsvector" if connection.vendor == "postgresql" else "text"


class TraceWords(models.Model):
    """The words of one example, in the order in which examples were indexed.

    The index is a GIN index on PostgreSQL; on SQLite it is a table of FTS5 that triggers on this
    table keep up to date (datasets/migrations/0009_word_index.py). A migration that rebuilds this
    table on SQLite must make the triggers again. datasets/storage/word_index.py writes and reads
    it.
    """

    number = models.BigAutoField(primary_key=True)
    trace = models.OneToOneField(Trace, on_delete=models.CASCADE, related_name="+")
    words = WordsField()

    def __str__(self) -> str:
        return f"words of {self.trace_id}"


class WordBacklog(models.Model):
    """Examples whose words are not indexed yet: those stored from ``since`` to ``until``. The id is
    that of the import, if an import stored them.

    Attributes:
        after_at, after_id: the examples up to this one are done; null: none.
        left: about how many are not done.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    since = models.DateTimeField()
    until = models.DateTimeField()
    after_at = models.DateTimeField(null=True)
    after_id = models.UUIDField(null=True)
    left = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.left:,} examples"


class Split(models.TextChoices):
    TRAIN = "train", "training part"
    HELD_OUT = "held_out", "held-out part"


class CompleteDatasets(models.Manager["Dataset"]):
    """Datasets that are stored completely: all that anyone sees."""

    def get_queryset(self) -> models.QuerySet["Dataset"]:
        return super().get_queryset().filter(complete=True)


class Dataset(models.Model):
    """A named, versioned selection of traces. Never changed once made: a change is a new
    version.

    ``complete`` is false while an import stores its examples; until then it only holds the name.
    """

    dataset_key = models.CharField(
        max_length=256, unique=True, editable=False, help_text="<name>-<version>"
    )
    name = models.CharField(max_length=200)
    version = models.CharField(max_length=55)
    description = models.TextField(blank=True)
    kind = models.CharField(
        max_length=16,
        choices=Kind.choices,
        default=Kind.TRACE,
        editable=False,
        help_text="Of all its examples.",
    )
    format = models.CharField(
        max_length=32,
        default=TRAINING_FORMATS[Kind.TRACE],
        editable=False,
        help_text="What a training program reads.",
    )
    size = models.PositiveIntegerField(help_text="Examples in all.")
    held_out_size = models.PositiveIntegerField(
        default=0, help_text="Of them, examples held out from training."
    )
    erased_size = models.PositiveIntegerField(
        default=0, editable=False, help_text="Examples whose content was erased."
    )
    erased_held_out_size = models.PositiveIntegerField(
        default=0, editable=False, help_text="Of them, examples held out from training."
    )
    fingerprint = models.CharField(
        max_length=80, help_text="sha256:<hash of content and order>", editable=False
    )
    stats = models.JSONField(default=dict)
    provenance = models.JSONField(default=dict)
    licence = models.CharField(
        max_length=200, blank=True, help_text="Such as CC-BY-4.0, or an address."
    )
    source = models.CharField(
        max_length=1000, blank=True, help_text="Where the data come from: an address, a paper."
    )
    parents = models.ManyToManyField(
        "self",
        symmetrical=False,
        related_name="children",
        blank=True,
        help_text="The datasets that it was made from.",
    )
    complete = models.BooleanField(default=True, editable=False)
    archived_at = models.DateTimeField(null=True, editable=False)
    sealed_at = models.DateTimeField(
        null=True, editable=False, help_text="Only operators read its examples since then."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )

    objects = CompleteDatasets()
    with_incomplete = models.Manager["Dataset"]()

    class Meta:
        base_manager_name = "with_incomplete"
        ordering = ["-created_at", "-id"]
        indexes = [
            # every list of datasets
            models.Index(F("created_at").desc(), F("id").desc(), name="ix_datasets_newest"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="uq_dataset_name_version"),
            models.CheckConstraint(
                condition=models.Q(held_out_size__lte=F("size")), name="ck_dataset_held_out"
            ),
        ]

    def __str__(self) -> str:
        return self.dataset_key

    @property
    def held_out_left(self) -> int:
        """Held-out examples that are not erased."""
        return self.held_out_size - self.erased_held_out_size

    @property
    def train_left(self) -> int:
        """Examples to train on that are not erased."""
        return self.size - self.erased_size - self.held_out_left


class DatasetItem(models.Model):
    """The place of one trace in one dataset. A trace may stand in several places of one part, never
    in both parts."""

    # No index of its own: the unique (dataset, position) serves every search by dataset.
    dataset = models.ForeignKey(
        Dataset, on_delete=models.CASCADE, related_name="items", db_index=False
    )
    trace = models.ForeignKey(Trace, on_delete=models.PROTECT, related_name="items")
    position = models.PositiveIntegerField()
    split = models.CharField(max_length=16, choices=Split.choices, default=Split.TRAIN)

    class Meta:
        ordering = ["dataset", "position"]
        constraints = [
            models.UniqueConstraint(
                fields=["dataset", "position"], name="uq_dataset_item_position"
            ),
            models.CheckConstraint(
                condition=models.Q(split__in=Split.values), name="ck_dataset_item_split"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.dataset_id}[{self.position}]"


class SealedLook(models.Model):
    """When an account last read examples of a sealed dataset, as far as the audit log says it
    (datasets/services/sealing.py)."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="+", db_index=False)
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["dataset", "account"], name="uq_sealed_look"),
        ]

    def __str__(self) -> str:
        return f"{self.account_id} at {self.dataset_id}"


def pack_positions(positions: Iterable[int]) -> bytes:
    """Return places in a dataset as 32-bit numbers, compressed."""
    return zlib.compress(array("I", positions).tobytes())


def unpack_positions(packed: bytes | memoryview) -> list[int]:
    numbers = array("I")
    numbers.frombytes(zlib.decompress(bytes(packed)))
    return list(numbers)


class ImportState(models.TextChoices):
    DRAFT = "draft", "draft"  # its columns have no meaning yet
    PENDING = "pending", "pending"
    RUNNING = "running", "running"
    COMPLETED = "completed", "completed"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


UNDER_WAY = (ImportState.PENDING, ImportState.RUNNING)


class ImportPhase(models.TextChoices):
    """What an import under way does. Once it stores, the staging in its folder is complete, and an
    import that was interrupted continues from it."""

    NONE = "", "waiting"
    READING = "reading", "reading"
    STORING = "storing", "storing"


class Import(models.Model):
    """One making of a dataset, out of a file or out of other datasets, by a process of its own or,
    if ``in_request``, within the request that asked for it.

    Its folder (datasets/files/folders.py) holds the source, the staging and a lock; who holds the
    lock works on it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    state = models.CharField(
        max_length=16, choices=ImportState.choices, default=ImportState.PENDING
    )
    phase = models.CharField(
        max_length=16, choices=ImportPhase.choices, default=ImportPhase.NONE, blank=True
    )
    dataset_key = models.CharField(max_length=256, help_text="Of the dataset to make.")
    source = models.JSONField(default=dict, help_text="What is read.")
    request = models.JSONField(default=dict, help_text="What was asked for.")
    in_request = models.BooleanField(default=False)
    bytes_total = models.BigIntegerField(null=True, help_text="Of the source.")
    bytes_read = models.BigIntegerField(default=0)
    examples_read = models.PositiveIntegerField(default=0)
    examples_stored = models.PositiveIntegerField(default=0)
    lines_skipped = models.PositiveIntegerField(default=0)
    problem = models.TextField(blank=True, help_text="Why it failed.")
    detail = models.JSONField(default=dict, help_text="The refusal as the API says it.")
    dataset = models.ForeignKey(
        Dataset, on_delete=models.SET_NULL, null=True, related_name="imports"
    )
    host = models.CharField(max_length=255, blank=True, help_text="That works on it.")
    attempts = models.PositiveSmallIntegerField(default=0)
    cancel_requested_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            # every list of imports
            models.Index(F("created_at").desc(), F("id").desc(), name="ix_imports_newest"),
            # what attendants look for
            models.Index(
                fields=["created_at"],
                name="ix_imports_under_way",
                condition=models.Q(state__in=UNDER_WAY),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=ImportState.values), name="ck_import_state"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.dataset_key} ({self.state})"


class Overlap(models.Model):
    """How many examples of one dataset stand in another one, from which a model learns.

    Compared are the part of ``dataset`` to learn from and the held-out part of ``other``, or all of
    it if it has none; of one dataset with itself its two parts. An example counts once, as the
    first of exact, normalised and ngram that it is (datasets/comparison/overlaps.py).
    """

    dataset = models.ForeignKey(
        Dataset, on_delete=models.CASCADE, related_name="overlaps", db_index=False
    )
    other = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="overlaps_as_other")
    dataset_fingerprint = models.CharField(max_length=80)
    other_fingerprint = models.CharField(max_length=80)
    learnt = models.PositiveIntegerField(help_text="Examples of the dataset that were looked at.")
    compared = models.PositiveIntegerField(help_text="Examples of the other one.")
    exact = models.PositiveIntegerField(help_text="The same question and answer.")
    normalised = models.PositiveIntegerField(
        help_text="The same question but for case, white space and punctuation."
    )
    ngram = models.PositiveIntegerField(help_text="A run of words of the question in common.")
    ngram_words = models.PositiveSmallIntegerField(help_text="Words of such a run.")
    containment = models.FloatField(help_text="The greatest share of such runs in common.")
    examples = models.JSONField(
        default=list, help_text="The worst: {kind, position, dataset_position, containment}."
    )
    positions = models.BinaryField(
        null=True,
        editable=False,
        help_text="Of all examples of the other one that overlap, see pack_positions; null: of a"
        " version that did not keep them.",
    )
    computed_at = models.DateTimeField(default=timezone.now)
    computed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )

    class Meta:
        ordering = ["dataset", "other"]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "other"], name="uq_overlap"),
        ]

    def __str__(self) -> str:
        return f"{self.dataset_id} with {self.other_id}"

    @property
    def found(self) -> int:
        return self.exact + self.normalised + self.ngram


class Tombstone(models.Model):
    """What was erased and is not to be stored again, with any ``meta``: the hash of what it said
    (examples.text_hash)."""

    text_hash = models.CharField(max_length=64, primary_key=True, editable=False)

    def __str__(self) -> str:
        return self.text_hash


class Erasure(models.Model):
    """The removal of the content of examples, everywhere: ended when ``completed_at`` is set. It
    holds ids, never content.

    Attributes:
        run_cursor: the files of runs up to this id are done; null: those of none.
        waiting: ids of runs before it whose files are still to be done.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    trace_ids = models.JSONField(default=list)
    run_cursor = models.UUIDField(null=True)
    waiting = models.JSONField(default=list)
    runs_done = models.PositiveIntegerField(default=0)
    files_changed = models.PositiveIntegerField(default=0)
    problem = models.TextField(blank=True, help_text="Why it has not ended.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    completed_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{len(self.trace_ids):,} examples"
