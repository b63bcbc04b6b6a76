from pathlib import Path

import pytest

from iberlm.core.documents import SCHEMA, batches_of, read_batches, write_documents
from iberlm.core.errors import CorruptError

ROW = {"id": "0123456789abcdef", "text": "Bon dia", "language": "ca", "source": "a.txt", "card": "sample", "licence": "CC0-1.0"}


def test_documents_survive_the_disk_in_bounded_batches(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    assert write_documents(path, batches_of((ROW | {"id": f"{n:016x}"} for n in range(2500)), max_rows=1000)) == 2500
    batches = list(read_batches(path))
    assert [batch.num_rows for batch in batches] == [1000, 1000, 500]
    assert [batch.num_rows for batch in read_batches(path, batch_rows=600)] == [600, 400, 600, 400, 500]
    assert batches[0].schema.equals(SCHEMA)


def test_a_large_text_ends_its_batch() -> None:
    sizes = [batch.num_rows for batch in batches_of([ROW | {"text": "x" * 600}] * 5, max_bytes=1000)]
    assert sizes == [2, 2, 1]


def test_no_documents_is_a_valid_file_and_a_cut_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    assert write_documents(path, []) == 0
    assert list(read_batches(path)) == []
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptError, match="not a whole Parquet file"):
        list(read_batches(path))
