"""Token stores: blocks or documents, the same bytes; ids never wrap around; what a store remembers of its tokenizer."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.core.errors import CorruptError
from iberlm.core.token_store import dtype_for, open_shard, tokenizer_hash, write_blocks, write_shard

DOCUMENTS = st.lists(st.lists(st.integers(0, 65_535), max_size=6), max_size=8)


@given(DOCUMENTS, st.integers(1, 3), st.sampled_from([np.uint16, np.int32]))
def test_blocks_of_documents_give_the_bytes_of_the_documents(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], size: int, dtype: type[np.number]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    arrays = [np.array(document, np.int64) for document in documents]
    write_shard(folder / "documents", arrays, dtype)
    parts = [arrays[first : first + size] for first in range(0, len(arrays), size)]
    blocks = [(np.concatenate(part), np.array([len(document) for document in part])) for part in parts]
    offsets, lengths = write_blocks(folder / "blocks", blocks, dtype)
    for ending in (".bin", ".idx"):
        assert (folder / f"blocks{ending}").read_bytes() == (folder / f"documents{ending}").read_bytes()
    shard = open_shard(folder / "blocks")
    assert shard.tokens.dtype == dtype
    assert [shard.document(index).tolist() for index in range(len(shard))] == documents
    assert (offsets.tolist(), lengths.tolist()) == (shard.offsets.tolist(), shard.lengths.tolist())


@pytest.mark.parametrize(("ids", "dtype"), [([5, 65_536], np.uint16), ([-1, 5], np.uint16), ([2**31, 0], np.int32)])
def test_an_id_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path, ids: list[int], dtype: type[np.number]) -> None:
    with pytest.raises(OverflowError, match="does not fit"):
        write_shard(tmp_path / "x", [np.array(ids, np.int64)], dtype)
    assert list(tmp_path.iterdir()) == []


def test_tokens_are_read_only_and_no_subclass_that_slices_slowly(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", [np.array([1, 5, 2])], np.uint16)
    tokens = open_shard(tmp_path / "x").tokens
    assert type(tokens) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 7


def test_vocabularies_below_the_bound_of_megatron_take_two_bytes() -> None:
    assert dtype_for(65_499) is np.uint16
    assert dtype_for(65_500) is np.int32


def test_the_hash_of_a_tokenizer_is_that_of_the_files_that_decide_ids(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"has no tokenizer\.json"):
        tokenizer_hash(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    first = tokenizer_hash(tmp_path)
    (tmp_path / "README.md").write_text("not one of them")
    assert tokenizer_hash(tmp_path) == first
    (tmp_path / "tokenizer_config.json").write_text("{}")
    second = tokenizer_hash(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert len({first, second, tokenizer_hash(tmp_path)}) == 3
