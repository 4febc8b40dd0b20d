"""Whatever tokenizer, template and texts: learnt is exactly the answer and its end, or the example
is refused by name.

``make test-parity`` looks at many more texts (parity_tests/test_parity_tokens.py).
"""

import pytest

from runs.trainer.tests.learnt_exactly import check_family
from runs.trainer.tests.tokenizer_families import FAMILIES


@pytest.mark.parametrize("prompt_style", ["conversation", "generation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_learnt_is_exactly_the_answer_or_it_is_refused(family, prompt_style, tmp_path):
    found = check_family(family, tmp_path, prompt_style=prompt_style, examples=5)
    assert found["learnt"] > found["refused"]
