"""The inputs of `benchmarks/curate.py`, written from any JSON lines: by language, all together, and grown to any size."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHANGED = 5
"""Of a grown copy every fifth word is another, so that no 5-gram of words, and no paragraph, is that of the original."""
_POOL_WORDS = 1 << 20
_FILE_BYTES = 64 << 20


def records(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """Text and language of each record; files end in .jsonl, .jsonl.gz or .jsonl.zst."""
    import zstandard

    openers: dict[str, Any] = {".gz": gzip.open, ".zst": zstandard.open}
    for path in paths:
        with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                record = json.loads(line)
                yield record["text"], record.get("language") or "und"


class Input:
    """A file of documents numbered from 0, and the size of their text in UTF-8."""

    def __init__(self, path: Path) -> None:
        self.path, self.documents, self.text_bytes = path, 0, 0
        self.languages: dict[str, int] = {}

    @property
    def megabytes(self) -> float:
        """Text, in 10^6 bytes."""
        return self.text_bytes / 1e6

    def count(self, text: str, language: str) -> dict[str, str]:
        """The record of a document, counted."""
        record = {"id": str(self.documents), "text": text, "language": language}
        self.documents += 1
        self.text_bytes += len(text.encode())
        self.languages[language] = self.languages.get(language, 0) + 1
        return record


def of_language(paths: list[Path], language: str, folder: Path, megabytes: float) -> Input:
    """The documents of one language, the first `megabytes` of their text (0: all), as `folder/0.jsonl`."""
    folder.mkdir(parents=True)
    made = Input(folder / "0.jsonl")
    with made.path.open("w", encoding="utf-8") as stream:
        for text, tag in records(paths):
            if tag == language and text.strip() and not 0 < megabytes <= made.megabytes:
                stream.write(json.dumps(made.count(text, tag), ensure_ascii=False) + "\n")
    return made


def together(paths: list[Path], folder: Path) -> tuple[Input, Input]:
    """All documents, as `all.jsonl` and as `all.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    made, table = Input(folder / "all.jsonl"), Input(folder / "all.parquet")
    rows = []
    with made.path.open("w", encoding="utf-8") as stream:
        for text, tag in records(paths):
            rows.append(made.count(text, tag))
            stream.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), table.path, compression="zstd", row_group_size=8192)
    table.documents, table.text_bytes, table.languages = made.documents, made.text_bytes, made.languages
    return made, table


def grown(paths: list[Path], folder: Path, text_bytes: int) -> Input:
    """Copies of all documents, each with other words, until there is so much text; files of 64 MiB."""
    import numpy as np

    folder.mkdir(parents=True)
    originals = [(text.split(" "), tag) for text, tag in records(paths)]
    generator = np.random.Generator(np.random.PCG64(1))
    pools: dict[str, list[str]] = {}
    for tag in sorted({tag for _, tag in originals}):
        words = sorted({word for split, language in originals if language == tag for word in split if word.isalpha()}) or ["a"]
        pools[tag] = [words[index] for index in generator.integers(0, len(words), _POOL_WORDS)]
    made, number, stream = Input(folder), 0, None
    while made.text_bytes < text_bytes:
        for split, tag in originals:
            if stream is None or stream.tell() >= _FILE_BYTES:
                if stream is not None:
                    stream.close()
                stream = (folder / f"{number:05d}.jsonl").open("w", encoding="utf-8")
                number += 1
            words = split.copy()
            count = len(words[::CHANGED])
            start = int(generator.integers(0, max(1, _POOL_WORDS - count)))
            words[::CHANGED] = (pools[tag][start : start + count] + words[::CHANGED])[:count]
            stream.write(json.dumps(made.count(" ".join(words), tag), ensure_ascii=False) + "\n")
            if made.text_bytes >= text_bytes:
                break
    if stream is not None:
        stream.close()
    return made
