import pytest
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from datasets.models import Dataset, DatasetItem, Trace
from datasets.tests.factory import make_dataset

pytestmark = pytest.mark.django_db


def refused_by_the_database(write):
    with pytest.raises(IntegrityError), transaction.atomic():
        write()


def test_the_database_holds_the_rules():
    dataset = make_dataset(3)
    item = dataset.items.get(position=0)
    trace = item.trace
    refused_by_the_database(lambda: Dataset.objects.filter(pk=dataset.pk).update(held_out_size=4))
    refused_by_the_database(lambda: DatasetItem.objects.filter(pk=item.pk).update(split="test"))
    refused_by_the_database(
        lambda: DatasetItem.objects.create(dataset=dataset, trace=trace, position=0)
    )
    refused_by_the_database(
        lambda: Trace.objects.create(prompt="p", final_answer="a", content_hash=trace.content_hash)
    )
    twin = {"size": 0, "fingerprint": "x"}
    refused_by_the_database(
        lambda: Dataset.objects.create(dataset_key="other", name="sums", version="v1", **twin)
    )
    refused_by_the_database(
        lambda: Dataset.objects.create(dataset_key="sums-v1", name="s", version="1", **twin)
    )


def test_a_trace_that_a_dataset_uses_cannot_be_deleted():
    dataset = make_dataset(1)
    with pytest.raises(ProtectedError):
        Trace.objects.get().delete()
    dataset.delete()
    assert not DatasetItem.objects.exists()
    Trace.objects.get().delete()


def test_names():
    dataset = make_dataset(1)
    item = dataset.items.get()
    assert (str(dataset), str(item), str(item.trace)) == ("sums-v1", f"{dataset.pk}[0]", "0+1=?")
