"""Sealed datasets: sets for evaluation whose examples only operators read.

An example is sealed if and only if a dataset that holds it is, and then all datasets that hold it
are: so one column says of each example who reads it, and no list, search or export has to look at
the datasets of an example. To keep it so

* a dataset is sealed, or unsealed, together with all datasets that share an example with it;
* no new dataset takes a sealed example (services/datasets.py, storage/storing.py);
* no dataset is made of a sealed one (cleaning/recipe.py).
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from django.contrib.admin.models import CHANGE
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.utils import timezone

from datasets.models import Dataset, DatasetItem, SealedLook, Trace
from datasets.services.refusals import NAMED_IDS
from datasets.storage.storing import hold_seals
from tunixrt.audit import write_log_entry
from tunixrt.refusals import Conflict, Missing
from tunixrt.roles import May, Role, require, user_role

# Examples that are sealed in one transaction: SQLite writes so many in a second or two.
SEALED_MAX = 20_000
# Looks of one account at one dataset within this time are one entry of the audit log.
LOOK_LASTS = timedelta(minutes=10)
SEALED, UNSEALED, LOOKED = "sealed", "unsealed", "read sealed examples"


class SealedExamples(Missing):
    """What was asked for shows examples of a sealed dataset."""

    def __init__(self, key: str):
        super().__init__(f"Dataset {key} is sealed: only operators read its examples.")


class NotSealable(Conflict):
    """A dataset cannot be sealed or unsealed as it is; says why."""


# --- reading --------------------------------------------------------------------------------------


def may_read_sealed(user: User | AnonymousUser) -> bool:
    """Return whether ``user`` reads the examples of sealed datasets."""
    return user_role(user) >= Role.OPERATOR


def may_read_examples(user: User, *datasets: Dataset) -> bool:
    """Return whether ``user`` reads the examples of datasets. Of a sealed one the look is written
    into the audit log. For datasets that are not sealed it costs no query."""
    sealed = [dataset for dataset in datasets if dataset.sealed_at is not None]
    if sealed and not may_read_sealed(user):
        return False
    for dataset in sealed:
        note_look(dataset=dataset, by=user)
    return True


def require_examples(user: User, *datasets: Dataset) -> None:
    """Raise SealedExamples unless ``user`` reads the examples of all of the datasets."""
    if not may_read_examples(user, *datasets):
        raise SealedExamples(next(each.dataset_key for each in datasets if each.sealed_at))


def may_read_trace(user: User, trace: Trace) -> bool:
    """Return whether ``user`` reads an example. Of a sealed one the look is written into the audit
    log of each of its datasets."""
    if trace.sealed_at is None:
        return True
    places = DatasetItem.objects.filter(trace=trace).order_by().values("dataset")
    return may_read_sealed(user) and may_read_examples(
        user, *Dataset.objects.filter(pk__in=places, sealed_at__isnull=False)
    )


def sealed_among(keys: Iterable[str]) -> set[str]:
    """Return the keys that are those of sealed datasets."""
    found = Dataset.objects.filter(dataset_key__in=set(keys), sealed_at__isnull=False)
    return set(found.values_list("dataset_key", flat=True))


def note_look(*, dataset: Dataset, by: User) -> None:
    """Write into the audit log that ``by`` has read examples of a sealed dataset, unless the log
    has an entry from the last minutes."""
    now = timezone.now()
    looks = SealedLook.objects.filter(dataset=dataset, account=by)
    last = looks.values_list("at", flat=True).first()
    if last is not None and last > now - LOOK_LASTS:
        return
    with transaction.atomic():
        if last is None:
            _, is_first = SealedLook.objects.get_or_create(
                dataset=dataset, account=by, defaults={"at": now}
            )
        else:  # of several at the same moment one writes
            is_first = bool(looks.filter(at=last).update(at=now))
        if is_first:
            write_log_entry(
                by=by, target=dataset, name=dataset.dataset_key, flag=CHANGE, message=LOOKED
            )


def note_comparison(dataset: Dataset, other: Dataset, *, by: User) -> None:
    """Write into the audit log that a sealed dataset was compared with another one: with many
    comparisons one can guess what it says."""
    for sealed, compared in ((dataset, other), (other, dataset)):
        if sealed.sealed_at is not None:
            write_log_entry(
                by=by,
                target=sealed,
                name=sealed.dataset_key,
                flag=CHANGE,
                message=f"compared with {compared.dataset_key}",
            )


# --- sealing --------------------------------------------------------------------------------------


def seal_datasets(*, datasets: Sequence[Dataset], by: User) -> None:
    """Seal datasets with their examples, all or none. Those that are sealed stay so.

    Raises:
        NotAllowed: one of them is another's, and ``by`` is no operator.
        NotSealable: another dataset that is not sealed holds an example of them; they have too
            many examples.
    """
    for dataset in datasets:
        require(by, May.ACT, owner_id=dataset.created_by_id)
    size = sum(dataset.size for dataset in datasets)
    if size > SEALED_MAX:
        raise NotSealable(f"At most {SEALED_MAX:,} examples can be sealed at once, not {size:,}.")
    _change(datasets, by=by, sealed=True)


def unseal_datasets(*, datasets: Sequence[Dataset], by: User) -> None:
    """Let everybody read the examples of datasets again, all or none.

    Raises:
        NotAllowed: ``by`` is no operator.
        NotSealable: another sealed dataset holds an example of them.
    """
    require(by, May.OPERATE)
    _change(datasets, by=by, sealed=False)


def _change(datasets: Sequence[Dataset], *, by: User, sealed: bool) -> None:
    keys = [dataset.pk for dataset in datasets]
    moment = timezone.now() if sealed else None
    with transaction.atomic():
        hold_seals(alone=True)
        changing = Dataset.objects.select_for_update().filter(pk__in=keys, sealed_at__isnull=sealed)
        changed = list(changing.order_by("pk"))
        traces = DatasetItem.objects.filter(dataset__in=keys).order_by().values("trace")
        sharing = DatasetItem.objects.filter(trace__in=traces).exclude(dataset__in=keys)
        # also one that an import still stores
        others = Dataset.with_incomplete.filter(
            pk__in=sharing.order_by().values("dataset"), sealed_at__isnull=sealed
        )
        named = list(others.order_by("pk").values_list("dataset_key", flat=True)[:NAMED_IDS])
        if named:
            raise NotSealable(_shared(named, sealed=sealed))
        Trace.objects.filter(pk__in=traces, sealed_at__isnull=sealed).update(sealed_at=moment)
        Dataset.objects.filter(pk__in=[each.pk for each in changed]).update(sealed_at=moment)
        for dataset in changed:
            write_log_entry(
                by=by,
                target=dataset,
                name=dataset.dataset_key,
                flag=CHANGE,
                message=SEALED if sealed else UNSEALED,
            )
    for dataset in datasets:
        dataset.refresh_from_db(fields=["sealed_at"])


def _shared(keys: Sequence[str], *, sealed: bool) -> str:
    named = ", ".join(keys)
    what = f"not sealed: {named}" if sealed else f"sealed: {named}"
    word = "sealed" if sealed else "unsealed"
    return (
        f"Nothing is {word}, because an example is also in a dataset that is {what}. Name that as"
        f" well (also): then all of them are {word} together."
    )
