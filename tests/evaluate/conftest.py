"""Two tiny models and a curated folder, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from iberlm.core.languages import LANGUAGES
from tests.evaluate.tiny import sample_texts, write_model, write_validation


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring to a model this small, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer puts BOS before each text, as a Llama's does."""
    return write_model(tmp_path_factory.mktemp("models") / "model", adds_bos=True)


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer leaves BOS to the caller."""
    return write_model(tmp_path_factory.mktemp("models") / "model", adds_bos=False)


@pytest.fixture(scope="session")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents a language: a short one, one longer than the model's context, one with a paragraph break."""
    return write_validation(
        tmp_path_factory.mktemp("curate"), {language: ["Egun on.", sample_texts(language)[0][:600], "ñ ç\n\nfin"] for language in LANGUAGES}
    )
