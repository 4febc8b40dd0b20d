import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from datasets.models import Trace
from datasets.services.datasets import get_dataset
from datasets.services.exports import export_lines

pytestmark = pytest.mark.django_db


def test_the_demonstration_is_made_once(capsys):
    call_command("make_demo_dataset")
    assert (
        capsys.readouterr().out == "arithmetic-v1 made: 4000 examples to train on, 200 held out.\n"
    )
    dataset = get_dataset("arithmetic-v1")
    assert (dataset.size, dataset.held_out_size, dataset.stats["with_final_answer"]) == (
        4_200,
        200,
        4_200,
    )
    assert dataset.created_by == User.objects.get(username="local")
    assert dataset.provenance["source"] == "generator"
    assert sum(1 for _ in export_lines(dataset)) == 4_200
    call_command("make_demo_dataset")
    assert capsys.readouterr().out.startswith("arithmetic-v1 is there already: 4000 examples")
    assert Trace.objects.count() == 4_200


def test_for_a_named_user(user, capsys):
    call_command("make_demo_dataset", user="somebody")
    assert get_dataset("arithmetic-v1").created_by == user
    with pytest.raises(CommandError, match="no user 'nobody'"):
        call_command("import_jsonl", "x", name="a", dataset_version="b", user="nobody")


def test_outside_local_mode_for_nobody(settings):
    settings.TUNIXRT_LOCAL_MODE = False
    call_command("make_demo_dataset")
    assert get_dataset("arithmetic-v1").created_by is None
