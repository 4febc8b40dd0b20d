"""Every tokenizer family with every chat template: learnt is exactly the answer and its end, or it
is refused by name.

Ids are compared with ``apply_chat_template``; what is learnt is read back as text.
"""

from pathlib import Path

import pytest

from runs.trainer.tests.learnt_exactly import check_family
from runs.trainer.tests.tokenizer_families import FAMILIES

EXAMPLES = 25  # conversations of each family, template and style


@pytest.mark.parametrize("prompt_style", ["conversation", "generation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_learnt_is_exactly_the_answer_or_it_is_refused(
    family: str, prompt_style: str, tmp_path: Path
) -> None:
    found = check_family(family, tmp_path, prompt_style=prompt_style, examples=EXAMPLES)
    assert found["learnt"] > found["refused"]
