"""Fixtures: a model folder, real rows and a card that permits fine-tuning."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.finetune.tiny import build_model, sample_rows, write_card, write_jsonl


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", sample_rows("es")[:10] + sample_rows("ca")[:10])


@pytest.fixture(scope="session", autouse=True)
def cards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the card 'town_answers', which permits fine-tuning."""
    folder = tmp_path_factory.mktemp("cards")
    write_card(folder, "town_answers", ["sft"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IBERLM_CARDS", str(folder))
        yield folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # the models are so small that threads only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
