"""Tokenizers of the train_tokenizer stage, and the model that most tests export."""

from pathlib import Path

import pytest

from iberlm.core.manifest import Manifest
from iberlm.tokenizer import train
from tests.export.models import build_model
from tests.tokenizer.tokenizer_corpus import TEXTS, documents, small, write_curated


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    every = {tag: documents(tag) for tag in TEXTS}
    splits = {"train": {tag: texts[:9] for tag, texts in every.items()}, "validation": {tag: texts[9:] for tag, texts in every.items()}}
    return write_curated(tmp_path_factory.mktemp("curate"), splits)


@pytest.fixture(scope="session")
def tokenizers(curated: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizer folders by algorithm."""
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        algorithm: train.run(small(algorithm=algorithm, check_determinism=False), [curated], folder / algorithm).folder / "tokenizer"
        for algorithm in ("bpe", "byte_bpe", "unigram")
    }


@pytest.fixture(scope="session")
def saved(tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    build_model(folder, tokenizers["bpe"])
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "model"))
