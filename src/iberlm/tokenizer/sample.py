"""The text a tokenizer is trained on: the same number of bytes of every language, chosen without a seed.

Documents are taken in the order of a hash of their ids, so the choice depends on nothing but the documents. A language
with less than its share is repeated: a vocabulary belongs to the languages, not to who has most text.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from iberlm.core.documents import read_batches
from iberlm.core.errors import DataError


@dataclass(frozen=True)
class LanguageSample:
    """How often each document of a language is used.

    `repeats`: one int64 array a file, one number a document in the file's order. `available_bytes`: UTF-8 bytes of all
    documents; `sampled_bytes`: with repeats.
    """

    files: list[Path]
    repeats: list[npt.NDArray[np.int64]]
    available_bytes: int
    sampled_bytes: int


def plan_sample(files: Mapping[str, list[Path]], sample_bytes_per_language: int, max_repeats: int) -> dict[str, LanguageSample]:
    """Decide how often each document is used, by language.

    Every language gets `sample_bytes_per_language`, or what the largest language has if that is less; a small one is
    used at most `max_repeats` times over. Raises `DataError` naming the languages that have no text.
    """
    sizes = {tag: [_ids_and_bytes(path) for path in paths] for tag, paths in files.items()}
    available = {tag: sum(int(size.sum()) for _, size in parts) for tag, parts in sizes.items()}
    if empty := [tag for tag, size in available.items() if size == 0]:
        raise DataError(f"no training documents in {', '.join(empty)}: add documents of that language, or leave it out of 'languages'")
    share = min(sample_bytes_per_language, max(available.values()))
    return {tag: _plan_language(files[tag], parts, min(share, available[tag] * max_repeats)) for tag, parts in sizes.items()}


def _ids_and_bytes(path: Path) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hash of the id (uint64[n]) and UTF-8 bytes of the text (int64[n]) of each document."""
    hashes, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for batch in read_batches(path, ["id", "text"]):
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in batch["id"].to_pylist())
        hashes.append(np.frombuffer(digests, "<u8").astype(np.uint64))
        sizes.append(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64))
    return np.concatenate(hashes), np.concatenate(sizes)


def _plan_language(files: list[Path], parts: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]], target: int) -> LanguageSample:
    hashes, sizes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    passes, rest = divmod(target, int(sizes.sum()))
    order = np.argsort(hashes, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    repeats = np.full(len(sizes), passes, np.int64)
    repeats[order[before < rest]] += 1
    ends = np.cumsum([len(part) for part, _ in parts])[:-1]
    return LanguageSample(files, np.split(repeats, ends), int(sizes.sum()), int((sizes * repeats).sum()))


def sample_lines(samples: Mapping[str, LanguageSample]) -> Iterator[str]:
    """The sampled text line by line, NFC: SentencePiece learns nothing across a line end, which is always a byte piece."""
    for sample in samples.values():
        for path, repeats in zip(sample.files, sample.repeats, strict=True):
            counts = iter(repeats.tolist())
            for batch in read_batches(path, ["text"]):
                for text in batch["text"].to_pylist():
                    lines = [line for line in unicodedata.normalize("NFC", text).split("\n") if line]
                    for _ in range(next(counts)):
                        yield from lines
