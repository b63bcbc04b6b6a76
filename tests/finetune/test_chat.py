"""Chat templates: answers and their end are what is learnt, and nothing else."""

from importlib.resources import files
from pathlib import Path

import pytest

from iberlm.finetune import chat
from iberlm.finetune.chat import TURN_END, TURN_START
from tests.finetune.tiny import build_model, sample_rows

MESSAGES = [
    {"role": "system", "content": "Respon en català."},
    {"role": "user", "content": "Què és l'ajuntament?"},
    {"role": "assistant", "content": "És el govern del municipi. 🏛"},
    {"role": "user", "content": "On és?"},
    {"role": "assistant", "content": "¿Al vostre poble?\n\nA la plaça."},
]


@pytest.mark.parametrize("package", ["iberlm.finetune", "iberlm.tokenizer"])
def test_labels_are_exactly_the_answers_and_their_end(model: Path, package: str) -> None:
    tokenizer = chat.load_tokenizer(model)
    tokenizer.chat_template = files(package).joinpath("chat_template.jinja").read_text(encoding="utf-8")
    form = chat.prepare(tokenizer)
    assert (form.added, form.changed) == ([], "")
    assert tokenizer.convert_ids_to_tokens(form.stop) == ["</s>", TURN_END]
    assert tokenizer.convert_ids_to_tokens(form.control) == [TURN_START, TURN_END]
    for messages in [MESSAGES, *(row["messages"] for row in sample_rows("es", "ca", "gl"))]:
        encoded = chat.encode(tokenizer, messages)
        answers = "".join(message["content"] + TURN_END for message in messages if message["role"] == "assistant")
        assert tokenizer.decode(encoded.ids[encoded.answer]) == answers
        others = tokenizer.decode(encoded.ids[~encoded.answer])
        assert not any(message["content"] in others for message in messages if message["role"] == "assistant")


def test_what_is_asked_is_the_beginning_of_what_was_learnt(model: Path) -> None:
    tokenizer = chat.load_tokenizer(model)
    encoded, prompt = chat.encode(tokenizer, MESSAGES), chat.encode_prompt(tokenizer, MESSAGES[:-1])
    assert encoded.ids[: len(prompt)].tolist() == prompt
    assert encoded.answer[len(prompt)]
    assert not encoded.answer[len(prompt) - 1]


def test_a_template_that_leaves_the_end_out_is_replaced(model: Path) -> None:
    tokenizer = chat.load_tokenizer(model)
    inside = "{% generation %}{{ message['content'] | trim + '<|im_end|>' }}{% endgeneration %}"
    outside = "{% generation %}{{ message['content'] | trim }}{% endgeneration %}{{ '<|im_end|>' }}"
    tokenizer.chat_template = chat.TEMPLATE.read_text(encoding="utf-8").replace("{%- generation", "{% generation").replace(inside, outside)
    assert outside in tokenizer.chat_template
    form = chat.prepare(tokenizer)
    assert "does not mark answers up to the token that ends them" in form.changed
    assert tokenizer.convert_ids_to_tokens(form.stop[-1]) == TURN_END


def test_a_tokenizer_without_turns_gets_template_and_tokens(tmp_path: Path) -> None:
    tokenizer = chat.load_tokenizer(build_model(tmp_path / "plain", chat=False))
    before = len(tokenizer)
    form = chat.prepare(tokenizer)
    assert form.added == [TURN_START, TURN_END]
    assert form.changed == "it had no chat template"
    assert len(tokenizer) == before + 2
    assert set(form.control) == {before, before + 1}
