"""From windows to spans: `find` for one text, `find_batch` for a column; both are one path, so they agree."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iberlm.curate.pii import scan
from iberlm.curate.pii.accounts import cards, cccs, ibans
from iberlm.curate.pii.identifiers import cadastres, cifs, dnis, health_cards, nies, nusss, passports, plates
from iberlm.curate.pii.network import addresses, addresses_6, credentials, emails
from iberlm.curate.pii.phone import phones
from iberlm.curate.pii.places import positions
from iberlm.curate.pii.spans import Proposal, Span, resolve

SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))
"""Type of `find_batch`: offsets in characters."""

_Detector = Callable[[str, int], Iterator[Proposal]]
_CODES = scan.SHORT_CODE | scan.NUMBER | scan.PHONE
_DETECTORS: tuple[tuple[int, _Detector], ...] = (
    (scan.ADDRESS, credentials),
    (scan.ADDRESS, emails),
    (scan.DOTTED, addresses),
    (scan.COLONS, addresses_6),
    (scan.PHONE, phones),
    (scan.NUMBER, dnis),
    (scan.NUMBER, nies),
    (scan.NUMBER, cifs),
    (scan.LONG_NUMBER, nusss),
    (scan.LONG_NUMBER, cccs),
    (scan.LONG_NUMBER, cards),
    (scan.IBAN, ibans),
    (_CODES, passports),
    (_CODES, health_cards),
    (scan.SHORT_CODE, plates),
    (scan.LONG_NUMBER | scan.NUMBER, cadastres),
    (scan.POSITION, positions),
)
"""Which triggers each detector needs: a window without any of them cannot hold what it looks for."""

_WHOLE_START, _WHOLE_END = 1, 2


def find(text: str) -> list[Span]:
    """Spans of one text, in order. See `iberlm.curate.pii.find`."""
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    return next((spans for _, spans in _documents(data, np.array([0, len(data)], np.int64))), [])


def find_everywhere(text: str) -> list[Span]:
    """What `find` gives, without the scan: every detector on the whole text. Slow; the reference that the scan is tested against."""
    every_trigger = (1 << 9) - 1
    proposals = set(_proposals(scan.fold(text), 0, every_trigger, _WHOLE_START | _WHOLE_END))
    return resolve(proposals)


def find_batch(texts: pa.Array) -> pa.ListArray:
    """Spans of each text of a column. See `iberlm.curate.pii.find_batch`."""
    data, offsets = _buffers(texts)
    counts = np.zeros(len(texts) + 1, np.int32)
    starts: list[int] = []
    ends: list[int] = []
    kinds: list[str] = []
    for document, spans in _documents(data, offsets):
        counts[document + 1] = len(spans)
        for span in spans:
            starts.append(span.start)
            ends.append(span.end)
            kinds.append(span.kind)
    fields = [pa.array(starts, pa.int32()), pa.array(ends, pa.int32()), pa.array(kinds, pa.string())]
    values = pa.StructArray.from_arrays(fields, fields=list(SPANS.value_type))
    return pa.ListArray.from_arrays(pa.array(np.cumsum(counts, dtype=np.int32)), values, type=SPANS)


def _buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """UTF-8 bytes and offsets, shape (texts + 1,), of a string column; a null is an empty text."""
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise TypeError(f"find_batch takes a column of strings, not of {texts.type}")
    if texts.null_count:
        texts = texts.fill_null("")
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    ends = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    # an array of which every string is empty may come without a data buffer
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8), ends


def _documents(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, list[Span]]]:
    """Row and spans of each text that has a window."""
    data.flags.writeable = False  # the compiled pass exists for read-only arrays, which Arrow's are
    found = scan.windows(data, offsets)
    documents, starts, triggers, whole = found.document.tolist(), found.start.tolist(), found.triggers.tolist(), found.whole.tolist()
    limits = found.limits.tolist()
    folded = found.folded.tobytes()
    row = 0
    while row < len(documents):
        document = documents[row]
        proposals: set[tuple[int, int, str, bool, int]] = set()
        while row < len(documents) and documents[row] == document:
            window = folded[limits[row] : limits[row + 1]].decode("latin-1")
            proposals.update(_proposals(window, starts[row], triggers[row], whole[row]))
            row += 1
        yield document, resolve(proposals) if proposals else []


def _proposals(window: str, offset: int, triggers: int, whole: int) -> Iterator[tuple[int, int, str, bool, int]]:
    """Proposals of one window at offsets of the text.

    At an edge that is not the text's own, a pattern could take the rest of a word for a word; what truly stands there has
    a window of its own with room around it, so nothing that touches an edge counts.
    """
    first = 0 if whole & _WHOLE_START else 1
    last = len(window) if whole & _WHOLE_END else len(window) - 1
    for needed, detector in _DETECTORS:
        if triggers & needed:
            for start, end, kind, certain, after in detector(window, first):
                if end <= last:
                    yield start + offset, end + offset, kind, certain, after + offset if after >= 0 else -1
