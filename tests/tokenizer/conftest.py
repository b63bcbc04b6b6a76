"""A curate folder, and a tokenizer trained on it once."""

import pytest
from tokenizer_corpus import TEXTS, documents, small, write_curated

from iberlm.core.manifest import Manifest
from iberlm.tokenizer import train


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    every = {tag: documents(tag) for tag in TEXTS}
    splits = {"train": {tag: texts[:9] for tag, texts in every.items()}, "validation": {tag: texts[9:] for tag, texts in every.items()}}
    return write_curated(tmp_path_factory.mktemp("curate"), splits)


@pytest.fixture(scope="session", params=["bpe", "unigram"])
def trained(request: pytest.FixtureRequest, curated: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The train_tokenizer stage with either algorithm."""
    return train.run(small(algorithm=request.param), [curated], tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def bpe(curated: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return train.run(small(), [curated], tmp_path_factory.mktemp("bpe"))
