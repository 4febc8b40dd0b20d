"""An example as the model sees it, in a browser: what is marked can be told apart in every light,
by keyboard, on a phone, and without JavaScript."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House
from runs.tests.browser.test_look import STILL, violations
from runs.tests.tokenizer_folder import make_tokenizer_folder
from runs.trainer.tests.templates import QWEN, TOOL

CHAT = [
    {"role": "user", "content": "Rain in <|end|> Köln? \u202eabc 👩\u200d🚀"},
    {"role": "assistant", "content": "Wait.", "reasoning": "A question.\n" * 40},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Wet.", "reasoning": "I looked."},
]
EXAMPLES: dict[str, dict[str, Any]] = {
    "trace": {"prompt": "Say <end>" + " and on" * 300, "final_answer": "Fine"},
    "chat": {"messages": CHAT, "tools": [TOOL]},
    "pair": {"prompt": "2+2?", "chosen": "4", "rejected": "5" * 400},
}


@pytest.fixture(scope="module")
def examples(house: House) -> dict[str, str]:
    """Ids of the examples, the path of the model, and a dataset."""
    if not (house.models / "qwen").exists():
        make_tokenizer_folder(house.models / "qwen", QWEN)
    ids: Any = house.ask("POST", "/api/traces", json=list(EXAMPLES.values()))
    return {
        **{name: one["id"] for name, one in zip(EXAMPLES, ids, strict=True)},
        "model": str(house.models / "qwen"),
        "dataset": house.add_dataset("rendered", size=12),
    }


PAGES = {
    "empty": "/traces/{trace}/look",
    "bytes": "/traces/{trace}/look?model_id=preset:tiny-llama&max_seq_length=128&too_long=truncate",
    "tokens": "/traces/{chat}/look?model_id={model}&tokens=on",
    "second row": "/traces/{chat}/look?model_id={model}&row=1",
    "pair": "/traces/{pair}/look?model_id={model}&dataset={dataset}",
    "refused": "/traces/{chat}/look?model_id=preset:tiny-llama",
    "lengths": "/datasets/{dataset}/tokens?model_id={model}",
}


@pytest.mark.parametrize("name", PAGES)
def test_it_has_no_serious_violation(visit: Visit, examples: dict[str, str], name: str) -> None:
    found = violations(visit("about:blank", **STILL), PAGES[name].format(**examples))
    assert not found, "\n".join(found)


def style(page: Page, selector: str) -> list[str]:
    return page.locator(selector).first.evaluate(
        "(one) => { const { borderTopWidth, backgroundColor, fontWeight } = getComputedStyle(one);"
        " return [borderTopWidth, backgroundColor, fontWeight]; }"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_learnt_and_what_is_a_control_token_look_different(
    visit: Visit, examples: dict[str, str], scheme: str
) -> None:
    """A control token not by its colour alone: text that looks like one has no frame."""
    page = visit(PAGES["second row"].format(**examples), color_scheme=scheme, **STILL)
    names = ("control-given", "control-learnt", "text-given", "text-learnt")
    looks = {name: style(page, f"[data-testid={name}]") for name in names}
    assert looks["control-given"][0] == looks["control-learnt"][0] == "1px"
    assert looks["text-given"][0] == looks["text-learnt"][0] == "0px"
    assert looks["text-given"][1] != looks["text-learnt"][1]
    assert looks["control-given"][2] > looks["text-given"][2]
    typed = page.get_by_test_id("text-given").filter(has_text="Rain in <|end|> Köln?")
    expect(typed).to_have_count(1)


def test_without_javascript_and_by_keyboard(visit: Visit, examples: dict[str, str]) -> None:
    page = visit(f"/traces/{examples['pair']}", java_script_enabled=False)
    page.get_by_test_id("to-look").focus()
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Model").focus()
    page.keyboard.type(examples["model"])
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("block-prompt")).to_contain_text("2+2?")
    expect(page.get_by_test_id("block-chosen").get_by_test_id("text-learnt")).to_have_text("4")
    page.get_by_label("Show where each token ends").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Show", exact=True).focus()
    page.keyboard.press("Enter")
    learnt = page.get_by_test_id("block-rejected").get_by_test_id("text-learnt")
    expect(learnt).to_have_count(400)


def test_the_two_answers_stand_beside_each_other_and_on_a_phone_below(
    visit: Visit, examples: dict[str, str]
) -> None:
    page = visit(PAGES["pair"].format(**examples), **STILL)
    for width, beside in ((1440, True), (390, False)):
        page.set_viewport_size({"width": width, "height": 900})
        chosen, rejected = (
            page.get_by_test_id(f"block-{side}").bounding_box() for side in ("chosen", "rejected")
        )
        assert chosen and rejected
        assert (chosen["y"] == rejected["y"]) is beside


def test_lengths_are_counted_on_request(visit: Visit, examples: dict[str, str]) -> None:
    page = visit(f"/datasets/{examples['dataset']}")
    page.get_by_test_id("count-now").click()
    page.get_by_role("combobox", name="Model").fill(examples["model"])
    page.get_by_role("button", name="Count").click()
    counted = page.get_by_test_id("counted")
    expect(counted).to_contain_text("All 12 examples were counted")
    expect(counted.get_by_test_id("histogram")).to_be_visible()
