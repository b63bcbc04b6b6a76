"""Which of several rows about the same thing is true, and the order of rows: decided by the rows alone, never by files or their order."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iberlm.evaluate.store.schema import ITEM_SCHEMA, RESULT_KEY, RESULT_SCHEMA

Numbers = npt.NDArray[np.int64]
WIDE_BYTES = 1 << 30
_LARGE = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.large_list(pa.large_string())}
ITEM_IDENTITY = ("model", "task", "item", "task_key", "key")
"""An answer is reused under another task key with a row of its own: its scores, target and group are those of that task's data."""


class UndecidedError(Exception):
    """Two rows of one instant differ, and only columns that were not read can decide between them."""


def earliest(table: pa.Table) -> pa.Table:
    """Item rows in the order of `ITEM_IDENTITY`, of those that agree in it the earliest.

    Of rows of the same instant the first in the order of their content as JSON. `table` may lack columns; raises `UndecidedError`
    where these would have to decide.
    """
    return _first_of_each(table, ITEM_IDENTITY, newest_first=False)


def newest(table: pa.Table) -> pa.Table:
    """Result rows in the order of `RESULT_KEY`, of those that agree in it the newest; of the same instant, the last by content."""
    return _first_of_each(table, RESULT_KEY, newest_first=True)


def _first_of_each(table: pa.Table, identity: Sequence[str], *, newest_first: bool) -> pa.Table:
    if table.num_rows == 0:
        return table
    *by, last = identity  # the last column is looked at only where the others do not decide: a million keys take seconds to sort
    code = _codes(table, by)
    order = np.arange(len(code)) if np.all(code[1:] >= code[:-1]) else np.argsort(code, kind="stable")
    code = code[order]
    equal = code[1:] == code[:-1]
    if equal.any():
        crowded = np.concatenate([[False], equal]) | np.concatenate([equal, [False]])
        order, code = _resolve(table, order, code, crowded, last, newest_first)
    return take(table, order)


def _resolve(table: pa.Table, order: Numbers, code: Numbers, crowded: npt.NDArray[np.bool_], last: str, newest_first: bool) -> tuple[Numbers, Numbers]:
    places = order[crowded]
    part = take(table, places)
    groups = _dense(code[crowded] * (len(table) + 1) + _ranks(part[last]))
    created = part["created"].to_numpy(zero_copy_only=False).astype(np.float64)
    created = np.where(np.isnan(created), -np.inf if newest_first else np.inf, created)
    moment = -created if newest_first else created
    sequence = np.lexsort((moment, groups))
    groups, moment, places = groups[sequence], moment[sequence], places[sequence]
    part = take(part, sequence)
    firsts = np.concatenate([[True], groups[1:] != groups[:-1]])
    leader = np.maximum.accumulate(np.where(firsts, np.arange(len(groups)), 0))
    rival = ~firsts & (moment == moment[leader])
    winners = np.flatnonzero(firsts)
    if rival.any():
        winners = _by_content(part, leader, np.flatnonzero(rival), winners, newest_first)
    kept = places[winners]
    mask = np.ones(len(order), dtype=bool)
    mask[crowded] = False
    # crowded rows have their codes to themselves, so their order among the others is that of the codes
    merged = np.concatenate([order[mask], kept])
    merged_code = np.concatenate([code[mask], code[crowded][sequence][winners]])
    final = np.argsort(merged_code, kind="stable")
    return merged[final], merged_code[final]


def _by_content(part: pa.Table, leader: Numbers, candidates: Numbers, winners: Numbers, largest: bool) -> Numbers:
    """Of rows of one instant that are not wholly equal, the first (or last) in the order of their content as JSON."""
    rivals = _rivals(part, np.arange(len(leader)), leader, candidates)
    if rivals and not set((RESULT_SCHEMA if largest else ITEM_SCHEMA).names) <= set(part.schema.names):
        raise UndecidedError
    chosen = {}
    for first, places in rivals.items():
        contents = {_content(row): place for place, row in zip(places, take(part, np.array(places)).to_pylist(), strict=True)}
        chosen[first] = contents[max(contents) if largest else min(contents)]
    return np.array([chosen.get(winner, winner) for winner in winners.tolist()], dtype=np.int64)


def _equal(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    if pa.types.is_nested(ours.type):
        return np.array([one == other for one, other in zip(ours.to_pylist(), theirs.to_pylist(), strict=True)], dtype=bool)
    both_null = pc.and_(pc.is_null(ours, nan_is_null=True), pc.is_null(theirs, nan_is_null=True))
    return np.asarray(pc.or_(pc.fill_null(pc.equal(ours, theirs), False), both_null).to_numpy(zero_copy_only=False), dtype=bool)


def _codes(table: pa.Table, columns: Sequence[str]) -> Numbers:
    """A number a row; rows compare by it as by the columns, and are equal in all of them where it is."""
    code = np.zeros(table.num_rows, dtype=np.int64)
    for name in columns:
        rank = _ranks(table[name])
        size = int(rank.max()) + 1
        if int(code.max()) + 1 > (1 << 62) // size:
            code = _dense(code)
        code = code * size + rank
    return _dense(code)


def _ranks(column: pa.ChunkedArray) -> Numbers:
    """Place of each value among the different values; null comes first."""
    if pa.types.is_integer(column.type):
        return _dense(pc.fill_null(column, -1).to_numpy().astype(np.int64))
    encoded = column.combine_chunks().dictionary_encode() if column.num_chunks != 1 else column.chunk(0).dictionary_encode()
    values = encoded.dictionary.to_pylist()
    place = np.empty(len(values) + 1, dtype=np.int64)
    place[sorted(range(len(values)), key=values.__getitem__)] = np.arange(1, len(values) + 1)
    place[len(values)] = 0
    found: Numbers = place[pc.fill_null(encoded.indices, len(values)).to_numpy().astype(np.int64)]
    return found


def _dense(code: Numbers) -> Numbers:
    return np.unique(code, return_inverse=True)[1].astype(np.int64)


def take(table: pa.Table, rows: Numbers) -> pa.Table:
    """Rows by place. An array of strings ends at 2 GiB, which the prompts of a million items exceed: wide tables are taken in slices."""
    if len(rows) == 0 or (len(rows) == table.num_rows and bool(np.all(rows == np.arange(len(rows))))):
        return table.slice(0, len(rows))
    if table.nbytes < WIDE_BYTES:
        return table.take(pa.array(rows))
    source = table.cast(pa.schema([field.with_type(_LARGE.get(field.type, field.type)) for field in table.schema]))
    step = max(1, WIDE_BYTES * table.num_rows // (4 * table.nbytes))
    return pa.concat_tables([source.take(pa.array(rows[start : start + step])).cast(table.schema) for start in range(0, len(rows), step)])


def distinct(table: pa.Table, identity: Sequence[str]) -> pa.Table:
    """All rows but those that repeat another one in every column, in the order of `identity`, then of `created` and content."""
    if table.num_rows == 0:
        return table
    moment = table["created"].to_numpy(zero_copy_only=False).astype(np.float64)
    moment = np.where(np.isnan(moment), np.inf, moment)
    code = _codes(table, identity)
    order = np.lexsort((moment, code))
    code, moment = code[order], moment[order]
    firsts = np.concatenate([[True], (code[1:] != code[:-1]) | (moment[1:] != moment[:-1])])
    leader = np.maximum.accumulate(np.where(firsts, np.arange(len(code)), 0))
    rivals = _rivals(table, order, leader, np.flatnonzero(~firsts))
    # places of rows: a run of one instant is its leader, or all its different contents
    runs = [_distinct_contents(table, order[rivals[place]]) if place in rivals else [order[place]] for place in np.flatnonzero(firsts).tolist()]
    return take(table, np.array([row for run in runs for row in run], dtype=np.int64))


def _rivals(table: pa.Table, order: Numbers, leader: Numbers, candidates: Numbers) -> dict[int, list[int]]:
    """Candidates that differ from their leader in some column, by leader, which comes first. `order` gives the rows of the places."""
    if not len(candidates):
        return {}
    same = np.ones(len(candidates), dtype=bool)
    ours, theirs = take(table, order[candidates]), take(table, order[leader[candidates]])
    for name in table.schema.names:
        same &= _equal(ours[name], theirs[name])
    rivals: dict[int, list[int]] = {}
    for place in candidates[~same].tolist():
        first = int(leader[place])
        rivals.setdefault(first, [first]).append(place)
    return rivals


def _distinct_contents(table: pa.Table, rows: Numbers) -> list[int]:
    contents = {_content(row): place for place, row in zip(rows.tolist(), take(table, rows).to_pylist(), strict=True)}
    return [contents[content] for content in sorted(contents)]


def _content(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, default=str)  # of newer versions there may be columns of any type
