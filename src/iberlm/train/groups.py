"""Which group a token belongs to, for the loss by language and card: a language is one group, or one a card where it has several.

What a document is lies in `documents.parquet` of the token store. Nothing is kept of it but where, in a shard, documents of
another card begin: at most nine bytes a document, read when the first sample of the shard is, and nothing at all for a
language of one card.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iberlm.core.errors import CorruptError
from iberlm.core.manifest import Manifest

DOCUMENTS = "documents.parquet"
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class DocumentIndex:
    """The documents of a token store: `documents.parquet`, read by row group. Raises `CorruptError` for what is not such a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            self._metadata = pq.read_metadata(path)
        columns = {self._metadata.schema.column(number).name: number for number in range(self._metadata.num_columns)}
        if missing := {"id", "card", "shard", "offset", "length"} - set(columns):
            raise CorruptError(f"{path}: has no column {', '.join(sorted(missing))}; tokenize again")
        self._columns = columns
        self._row_groups: dict[str, list[int]] = {}
        for group in range(self._metadata.num_row_groups):
            for stem in self._values(group, "shard"):
                self._row_groups.setdefault(stem, []).append(group)

    def cards(self, stem: str) -> set[str]:
        """Cards of the documents of a shard, given as `train/es-00000`."""
        found: set[str] = set()
        for group in self._row_groups.get(stem, []):
            if len(self._values(group, "shard")) == 1:
                found |= set(self._values(group, "card"))
            else:
                found |= set(self._rows(group, ["card"], stem)["card"].unique().to_pylist())
        return found

    def runs(self, stem: str, tokens: int, cards: Sequence[str]) -> tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.unsignedinteger[Any]]]:
        """Stretches of a shard of `tokens` ids whose documents are of one card: first token and position in `cards` of each, [runs] both."""
        columns = [self._rows(group, ["card", "offset", "length"], stem) for group in self._row_groups.get(stem, [])]
        table = pa.concat_tables(columns).combine_chunks() if columns else None
        if table is None or not table.num_rows:
            raise CorruptError(f"{self.path}: has no document of {stem}, which has {tokens} tokens; tokenize again")
        offsets, lengths = table["offset"].to_numpy(), table["length"].to_numpy()
        if offsets[0] != 0 or not np.array_equal(offsets[1:], offsets[:-1] + lengths[:-1]) or offsets[-1] + lengths[-1] != tokens:
            raise CorruptError(f"{self.path}: its documents of {stem} do not follow one another up to its {tokens} tokens; tokenize again")
        codes = pc.index_in(table["card"], value_set=pa.array(cards)).to_numpy()
        begins = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
        return offsets[begins].astype(np.min_scalar_type(tokens)), codes[begins].astype(np.min_scalar_type(len(cards)))

    def find(self, document: str) -> dict[str, Any] | None:
        """The row of a document, by its id; None when the store does not have it. Reads one column of the whole file."""
        for group in range(self._metadata.num_row_groups):
            place = pc.index(self._read(group, ["id"])["id"], document).as_py()
            if place >= 0:
                row: dict[str, Any] = self._read(group, None).slice(place, 1).to_pylist()[0]
                return row
        return None

    def _values(self, group: int, column: str) -> list[str]:
        """Distinct values of a column of a row group; the file's statistics know them when there is but one."""
        known = self._metadata.row_group(group).column(self._columns[column]).statistics
        if known is not None and known.has_min_max and known.min == known.max:
            return [known.min]
        values: list[str] = self._read(group, [column])[column].unique().to_pylist()
        return values

    def _rows(self, group: int, columns: list[str], stem: str) -> pa.Table:
        table = self._read(group, [*columns, "shard"])
        return table.filter(pc.equal(table["shard"], stem)).select(columns)

    def _read(self, group: int, columns: list[str] | None) -> pa.Table:
        with _readable(self.path), pq.ParquetFile(self.path, metadata=self._metadata) as parquet:
            return parquet.read_row_group(group, columns=columns, use_threads=False)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn Arrow's errors into a `CorruptError` that names the file."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path}: not a whole Parquet file ({error}); tokenize again") from error


@dataclass
class SourceGroups:
    """The groups of one source: the concatenation of its shards, which are given as (`train/es-00000`, tokens)."""

    names: list[str]
    first: int
    """Number of the first of the names among the groups of all sources."""
    shards: Sequence[tuple[str, int]]
    index: DocumentIndex | None = None
    """Where to look; None when there is one name."""
    cards: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *(tokens for _, tokens in self.shards)])
        self._known: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}

    def fill(self, out: I32, begins: I64) -> None:
        """Groups of the tokens from each of `begins` (places in the source, int64[n]) on, into `out`, int32[n, tokens]."""
        if self.index is None:
            out[:] = self.first
            return
        shards = np.searchsorted(self._starts, begins, side="right") - 1
        for shard in np.unique(shards).tolist():
            self._fill_from(out, np.flatnonzero(shards == shard), begins, shard)

    def _fill_from(self, out: I32, rows: I64, begins: I64, shard: int) -> None:
        """Fill the rows that begin in this shard."""
        firsts, codes = self._runs(shard)
        local = begins[rows] - self._starts[shard]
        stops = np.minimum(local + out.shape[1], self.shards[shard][1])
        # the keys take the type of the array, which would else be copied
        low = np.searchsorted(firsts, local.astype(firsts.dtype), side="right") - 1
        high = np.searchsorted(firsts, (stops - 1).astype(firsts.dtype), side="right")
        plain = (high - low == 1) & (stops - local == out.shape[1])
        out[rows[plain]] = self.first + codes[low[plain], None].astype(np.int32)
        for row, begin, stop, one, other in np.stack([rows, local, stops, low, high], axis=1)[~plain].tolist():
            line, place = out[row], 0
            for code, edge in zip(codes[one:other].tolist(), [*firsts[one + 1 : other].tolist(), stop], strict=True):
                line[place : edge - begin] = self.first + code
                place = edge - begin
            if place < out.shape[1]:  # the window goes on in the next shard
                self.fill(out[row : row + 1, place:], self._starts[shard + 1 : shard + 2])

    def _runs(self, shard: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if shard not in self._known and self.index is not None:
            self._known[shard] = self.index.runs(*self.shards[shard], self.cards)
        return self._known[shard]


def open_groups(manifest: Manifest, shards: Mapping[str, Sequence[tuple[str, int]]], first: int, prefix: str = "") -> list[SourceGroups]:
    """Groups of these languages (with their shards) of a store, numbered from `first` on.

    Names are `es`, or `es/CARD` when the language has several cards; `prefix` goes before. Raises `CorruptError` when `documents.parquet` is
    needed and missing: the manifest names several cards.
    """
    listed = any(output.path == DOCUMENTS for output in manifest.outputs)
    index = DocumentIndex(manifest.path(DOCUMENTS)) if listed or len(manifest.cards) > 1 else None
    found: list[SourceGroups] = []
    for tag, parts in shards.items():
        parts = [(stem, tokens) for stem, tokens in parts if tokens]
        cards = sorted(set().union(*(index.cards(stem) for stem, _ in parts))) if index else []
        if len(cards) > 1:
            found.append(SourceGroups([f"{prefix}{tag}/{card}" for card in cards], first, parts, index, cards))
        else:
            found.append(SourceGroups([f"{prefix}{tag}"], first, parts))
        first += len(found[-1].names)
    return found
