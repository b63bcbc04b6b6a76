"""Read some columns, or some rows, of files whose rows lie beside each other, for the tools that look at a finished run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.errors import CorruptError


def read_columns(path: Path, names: Sequence[str], rows: int) -> pa.Table:
    """Columns of a file that has `rows` rows. Raises `CorruptError` when it is no whole Parquet file, lacks a column or has other rows."""
    try:
        with pq.ParquetFile(path) as parquet:
            table = parquet.read(columns=list(names))  # columns that are not there are left out
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise _damaged(path, error) from error
    if missing := [name for name in names if name not in table.column_names]:
        raise CorruptError(f"{path}: has no column '{missing[0]}': another version of IberLM wrote it; run the stage that makes it again")
    if table.num_rows != rows:
        raise CorruptError(f"{path}: {table.num_rows} rows beside {rows} documents; run the stage that makes it again")
    return table


def read_rows(path: Path, rows: Sequence[int], names: Sequence[str] | None = None) -> pa.Table:
    """The given rows (ascending) of a file, all columns by default. Row groups that hold none of them are not read.

    Raises `CorruptError` when it is no whole Parquet file or has not so many rows.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups)]
            ends = np.cumsum([0, *sizes])
            if rows and rows[-1] >= ends[-1]:
                raise CorruptError(f"{path}: {ends[-1]} rows, and row {rows[-1]} is looked for; run the stage that makes it again")
            group_of = np.searchsorted(ends, rows, side="right") - 1
            columns = None if names is None else list(names)
            parts = [
                parquet.read_row_group(group, columns=columns).take([row - int(ends[group]) for row in np.asarray(rows)[group_of == group].tolist()])
                for group in sorted(set(group_of.tolist()))
            ]
            return pa.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CorruptError:
    if isinstance(error, FileNotFoundError):
        return CorruptError(f"{path}: missing; run the stage that makes it again")
    return CorruptError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())}); run the stage that makes it again")
