"""Speed, identity of ids and memory: `benchmarks/tokenizer.py` encode, read and memory."""

import argparse
import json
import os
import shutil
import statistics
import time
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizer_commands import LANGUAGES, Finished, iberlm, markdown, measured
from tokenizer_inputs import Documents, copies, files_of, fit, shuffled, synthetic, texts_of, write_curated

BATCH_DOCUMENTS = 256
IDENTITY_LINES = 100_000
WINDOW_TOKENS = 4_096
STORE_SHARDS, DOCUMENT_TOKENS = 4, 1_000
VOCABULARY, BOS, EOS = 64_000, 1, 2


# --- encode --------------------------------------------------------------------------------------------------------------------------


def _sentencepiece(folder: Path) -> Callable[[list[str]], tuple[Any, Any]]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return lambda texts: _flat(processor.encode([unicodedata.normalize("NFC", text) for text in texts], num_threads=1))


def _tokenizers(folder: Path) -> Callable[[list[str]], tuple[Any, Any]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda texts: _flat([encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)])


def _gigatoken(folder: Path) -> Callable[[list[str]], tuple[Any, Any]]:
    import gigatoken
    import numpy as np

    model = folder / "tokenizer.model"
    tokenizer = gigatoken.Tokenizer.from_sentencepiece(str(model)) if model.is_file() else gigatoken.Tokenizer(str(folder / "tokenizer.json"))

    def encode(texts: list[str]) -> tuple[Any, Any]:
        layout = tokenizer.encode_batch(texts, parallel=False).layout
        return np.asarray(layout.content.data, np.int32), np.diff(np.asarray(layout.offsets.data))

    return encode


def _ours(fast: bool) -> Callable[[Path], Callable[[list[str]], tuple[Any, Any]]]:
    def build(folder: Path) -> Callable[[list[str]], tuple[Any, Any]]:
        from iberlm.tokenizer.encode import open_encoder

        encoder = open_encoder(folder, fast=fast)
        return encoder.encode

    return build


ENCODERS = {"tokenizers": _tokenizers, "sentencepiece": _sentencepiece, "gigatoken": _gigatoken, "iberlm, fast": _ours(True), "iberlm, reference": _ours(False)}
"""The first is the reference: what AutoTokenizer runs. All but the third do the whole work: compose (NFC), and take spelled special tokens as text."""


def _flat(rows: list[list[int]]) -> tuple[Any, Any]:
    """Ids one after the other, and how many each text has."""
    from itertools import chain

    import numpy as np

    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths


def encode_once(settings: dict[str, Any]) -> dict[str, Any]:
    """The program `encoder`: all documents once through one encoder, in a fresh process; the ids go to a file."""
    import numpy as np

    texts = list(texts_of(map(Path, settings["files"])))
    started = time.process_time()
    encoder = ENCODERS[settings["encoder"]](Path(settings["tokenizer"]))
    encoder(["Bon dia, món.", "Buenos días."])
    ready = time.process_time()
    found = [encoder(texts[first : first + BATCH_DOCUMENTS]) for first in range(0, len(texts), BATCH_DOCUMENTS)]
    seconds = time.process_time() - ready
    ids, lengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    np.savez(settings["ids"], ids=ids, lengths=lengths)
    return {"start_up": ready - started, "seconds": seconds, "bytes": sum(len(text.encode()) for text in texts), "documents": len(texts), "tokens": len(ids)}


def compare_lines(settings: dict[str, Any]) -> dict[str, Any]:
    """The program `lines`: AutoTokenizer against the SentencePiece model, or `tokenizers` where there is none, on lines of real text."""
    from transformers import AutoTokenizer

    folder = Path(settings["tokenizer"])
    texts = (text for paths in settings["files"] for text in islice(_lines(paths), IDENTITY_LINES // len(settings["files"])))
    lines = list(texts)
    automatic = AutoTokenizer.from_pretrained(folder)
    # a line may spell a special token: the model of SentencePiece takes it as text, and so does `iberlm tokenize`
    ids = automatic(lines, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    if (folder / "tokenizer.model").is_file():
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        other = processor.encode([unicodedata.normalize("NFC", line) for line in lines])
    else:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        other = [encoding.ids for encoding in tokenizer.encode_batch(lines, add_special_tokens=False)]
    differing = [line for line, one, two in zip(lines, ids, other, strict=True) if one != two]
    lossy = [line for line, one in zip(lines, ids, strict=True) if automatic.decode(one) != unicodedata.normalize("NFC", line)]
    return {"lines": len(lines), "differing": len(differing), "lossy": len(lossy), "examples": [line[:200] for line in (differing + lossy)[:3]]}


def _lines(paths: list[str]) -> Iterator[str]:
    """Different lines of document files, in their order."""
    seen: set[str] = set()
    for text in texts_of(map(Path, paths)):
        for line in text.split("\n"):
            if line and line not in seen:
                seen.add(line)
                yield line


def encode(arguments: argparse.Namespace, folder: Path) -> None:
    """Encoders alone, identity of ids, and the whole stage, for each tokenizer."""
    whole = copies(arguments.documents, 1, folder / "documents", list(LANGUAGES))
    print(f"{whole.megabytes:.1f} MB, {sum(whole.documents.values()):,} documents")
    for trained in arguments.tokenizer:
        tokenizer = trained / "tokenizer"
        encoders(arguments, folder, whole, tokenizer)
        files = [[str(path) for path in paths] for paths in files_of([whole.folder], "train").values()]
        found, _ = measured("lines", {"tokenizer": str(tokenizer), "files": files}, folder, core=arguments.core)
        reference = "the SentencePiece model" if (tokenizer / "tokenizer.model").is_file() else "tokenizers"
        print(f"\nAutoTokenizer against {reference}: {found['differing']:,} of {found['lines']:,} different lines have other ids; ", end="")
        print(f"{found['lossy']:,} do not come back when decoded. {found['examples'] or ''}", flush=True)
        stage(arguments, folder, whole, trained)


def encoders(arguments: argparse.Namespace, folder: Path, documents: Documents, tokenizer: Path) -> None:
    """Each encoder `--runs` times in turn; the ids of its last run beside those of the reference."""
    import numpy as np

    names = [name for name in ENCODERS if name != "sentencepiece" or (tokenizer / "tokenizer.model").is_file()]
    files = [str(path) for paths in files_of([documents.folder], "train").values() for path in paths]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(arguments.runs):
        for name in names:
            settings = {"encoder": name, "tokenizer": str(tokenizer), "files": files, "ids": str(folder / f"{name}.npz")}
            runs[name].append(measured("encoder", settings, folder, core=arguments.core)[0])
    reference = np.load(folder / "tokenizers.npz")
    rows = []
    for name, found in runs.items():
        ids = np.load(folder / f"{name}.npz")
        speeds = [run["bytes"] / run["seconds"] / 1e6 for run in found]
        start_up = statistics.median(run["start_up"] for run in found)
        rows.append([name, f"{statistics.median(speeds):.1f}", f"{min(speeds):.1f} to {max(speeds):.1f}", f"{start_up:.2f}", _differing(reference, ids)])
    head = ["", "MB a CPU second", "lowest to highest", "start-up, CPU s", "documents with other ids"]
    markdown(f"{tokenizer.parent.name}: encoders, one core, medians of {arguments.runs}", head, rows)


def _differing(reference: Any, other: Any) -> str:
    """Documents whose ids are not those of the reference."""
    import numpy as np

    if np.array_equal(reference["ids"], other["ids"]) and np.array_equal(reference["lengths"], other["lengths"]):
        return "none"
    if len(reference["lengths"]) != len(other["lengths"]):
        return "another number of documents"
    rows = [np.split(found["ids"], np.cumsum(found["lengths"])[:-1]) for found in (reference, other)]
    return f"{sum(not np.array_equal(one, two) for one, two in zip(*rows, strict=True)):,}"


def stage(arguments: argparse.Namespace, folder: Path, whole: Documents, trained: Path) -> None:
    """The whole `iberlm tokenize`: speed by workers and encoder, and memory by size."""
    few = _few(whole, folder / "few")
    rows = []
    for encoder, workers in (("fast", 1), ("fast", 2), ("reference", 1)):
        runs = [tokenize(arguments, folder, whole, trained, workers, encoder) for _ in range(arguments.runs)]
        fixed = statistics.median(tokenize(arguments, folder, few, trained, workers, encoder)[0].cpu for _ in range(arguments.runs))
        cpu, wall = (statistics.median(getattr(run, name) for run, _ in runs) for name in ("cpu", "wall"))
        row = [encoder, str(workers), f"{cpu:.2f}", f"{fixed:.2f}", f"{whole.megabytes / max(cpu - fixed, 1e-3):.1f}", f"{whole.megabytes / cpu:.1f}"]
        own = statistics.median(seconds for _, seconds in runs)
        rows.append([*row, f"{own:.2f}", f"{wall:.2f}"])
    head = ["encoder", "workers", "CPU s of the command", "of that start-up", "MB a CPU second without start-up", "with it", "CPU s in the manifest"]
    markdown(f"{trained.name}: iberlm tokenize, {whole.megabytes:.1f} MB, medians of {arguments.runs}", [*head, "wall s"], rows)
    rows = []
    for times in arguments.times:
        given = copies(whole.folder, times, folder / f"times{times}", list(LANGUAGES)) if times > 1 else whole
        finished, _ = tokenize(arguments, folder, given, trained, 1, "fast")
        rows.append([f"{given.megabytes:.0f}", f"{sum(given.documents.values()):,}", f"{finished.peak / 1e6:.0f}"])
        if given is not whole:
            shutil.rmtree(given.folder)
    shutil.rmtree(few.folder)
    markdown("memory, one worker", ["MB of text", "documents", "peak MB"], rows)


def _few(documents: Documents, out: Path) -> Documents:
    """Two documents a language: what the stage costs whatever it is given."""
    from iberlm.core.documents import SCHEMA, read_batches

    parts = [
        ("train", tag, [next(read_batches(paths[0], SCHEMA.names)).slice(0, 2).cast(SCHEMA)]) for tag, paths in files_of([documents.folder], "train").items()
    ]
    return write_curated(out, parts)


def tokenize(arguments: argparse.Namespace, folder: Path, documents: Documents, trained: Path, workers: int, encoder: str) -> tuple[Finished, float]:
    """One run of the command in a fresh folder; and the CPU seconds that its manifest states."""
    from iberlm.core.manifest import read_manifest

    out = folder / "tokenize"
    shutil.rmtree(out, ignore_errors=True)
    settings = [f"documents={documents.folder}", f"tokenizer_folder={trained.absolute()}", f"out={out}", f"cluster.workers={workers}", f"encoder={encoder}"]
    finished = iberlm("tokenize", *settings, log=folder / "tokenize.log", core=arguments.core if workers == 1 else None)
    return finished, read_manifest(out).cpu_seconds


# --- read ----------------------------------------------------------------------------------------------------------------------------


def make_store(folder: Path, tokens: int) -> None:
    """A finished stage `tokenize` of five languages in four shards each; ids fall in frequency as in text."""
    import numpy as np

    from iberlm.core.config import StageConfig
    from iberlm.core.languages import file_safe
    from iberlm.core.stage import run_stage
    from iberlm.core.token_store import dtype_for, write_shard

    each = tokens // (len(LANGUAGES) * STORE_SHARDS) // DOCUMENT_TOKENS

    def documents(seed: int) -> Iterator[Any]:
        generator = np.random.Generator(np.random.PCG64(seed))
        for first in range(0, each, 1_000):
            count = min(1_000, each - first) * DOCUMENT_TOKENS
            ids = (generator.random(count, np.float32) ** 3 * VOCABULARY).astype(np.uint16).reshape(-1, DOCUMENT_TOKENS)
            ids[:, 0], ids[:, -1] = BOS, EOS
            yield from ids

    def body(config: Any, inputs: Any, out: Path, record: Any) -> None:
        (out / "train").mkdir()
        for number, (tag, shard) in enumerate((tag, shard) for tag in LANGUAGES for shard in range(STORE_SHARDS)):
            stem = out / "train" / f"{file_safe(tag)}-{shard:05d}"
            write_shard(stem, documents(number), dtype_for(VOCABULARY))
            for ending in (".bin", ".idx"):
                record.output(stem.with_name(stem.name + ending), each)
        counts = dict.fromkeys(LANGUAGES, each * STORE_SHARDS * DOCUMENT_TOKENS)
        record.metrics = {"tokens": {"train": counts}, "vocabulary_size": VOCABULARY, "boundary": {"bos": BOS, "eos": EOS}}

    run_stage("tokenize", 1, body, StageConfig(), [], folder, fingerprint=[tokens])


def read_store(settings: dict[str, Any]) -> dict[str, Any]:
    """The program `reader`: windows at random, one after the other, and batches of samples in the order of training."""
    import numpy as np

    from iberlm.core.manifest import read_manifest
    from iberlm.train.config import ModelConfig, PretrainConfig
    from iberlm.train.data import open_training

    config = PretrainConfig(steps=1_000, sequence_length=WINDOW_TOKENS, model=ModelConfig(max_position_embeddings=WINDOW_TOKENS))
    data = open_training(config, read_manifest(Path(settings["store"])), VOCABULARY, bos=BOS)
    generator = np.random.Generator(np.random.PCG64(1))
    stores = [data.stores[index] for index in generator.integers(0, len(data.stores), settings["windows"])]
    starts = [int(generator.integers(0, len(store) - WINDOW_TOKENS)) for store in stores]
    passes = []
    for _ in range(2):  # in the first, pages are in the system's cache and not yet in the process's table
        spent = []
        for store, start in zip(stores, starts, strict=True):
            before = time.perf_counter_ns()
            store.read(start, start + WINDOW_TOKENS)
            spent.append(time.perf_counter_ns() - before)
        passes.append([value / 1e3 for value in (np.median(spent), np.mean(spent), np.percentile(spent, 99))])
    size, batches = settings["batch"], settings["windows"] // settings["batch"]
    speeds = []
    for turn in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in range(turn * batches, (turn + 1) * batches):
            data.samples(np.arange(batch * size, (batch + 1) * size))
        tokens = batches * size * WINDOW_TOKENS / 1e6
        speeds.append((tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall)))
    return {"first": passes[0], "again": passes[1], "speeds": speeds, "tokens": sum(len(store) for store in data.stores)}


def read(arguments: argparse.Namespace, folder: Path) -> None:
    """A store of so many tokens is made, read and deleted."""
    place = folder / "store"
    make_store(place, int(arguments.tokens))
    # written just now, the files are in the system's cache; the hashing of the manifest has read them once more
    runs = [
        measured("reader", {"store": str(place), "windows": 20_480, "batch": arguments.batch}, folder, core=arguments.core)[0] for _ in range(arguments.runs)
    ]
    rows = []
    for name, key in (("first touch by the process", "first"), ("again", "again")):
        rows.append([name, *(f"{statistics.median(run[key][place] for run in runs):.1f}" for place in range(3))])
    title = f"{runs[0]['tokens']:,} tokens, uint16: a random window of {WINDOW_TOKENS:,} tokens, microseconds, medians of {arguments.runs}"
    markdown(title, ["", "median", "mean", "99th percentile"], rows)
    cpu, wall = ([speed[kind] for run in runs for speed in run["speeds"]] for kind in (0, 1))
    head = ["samples a batch", "million tokens a CPU second", "million tokens a second", "lowest to highest (CPU)"]
    row = [str(arguments.batch), f"{statistics.median(cpu):.0f}", f"{statistics.median(wall):.0f}", f"{min(cpu):.0f} to {max(cpu):.0f}"]
    markdown("shuffled batches", head, [row])


# --- memory --------------------------------------------------------------------------------------------------------------------------


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    """Training on samples of so many GB of text made from laws of words."""
    laws = {tag: fit(shuffled(paths)) for tag, paths in files_of([arguments.documents], "train").items() if tag in LANGUAGES}
    rows = [[tag, f"{law.k:.1f}", f"{law.b:.3f}", f"{law.unseen:.2%}", f"{len(law.words):,}"] for tag, law in laws.items()]
    markdown("different words of the documents, K n^B", ["", "K", "B", "share of words yet unseen", "different words"], rows)
    rows = []
    for gigabytes in arguments.gigabytes:
        if (free := shutil.disk_usage(folder).free / 1e9) < gigabytes * 0.8 + 2:
            print(f"{gigabytes:g} GB: left out, {free:.0f} GB of disk are free")
            continue
        documents = synthetic(laws, int(gigabytes * 1e9), folder / "grown")
        out = folder / "trained"
        settings = [f"documents={documents.folder}", f"out={out}", f"tokenizer.vocabulary_size={arguments.vocabulary}", "tokenizer.check_determinism=false"]
        settings.append(f"tokenizer.sample_bytes_per_language={int(gigabytes * 1e9 / len(laws))}")
        finished = iberlm("train-tokenizer", *settings, *arguments.override, log=folder / "train.log")
        told = json.loads((out / "manifest.json").read_text())["metrics"]
        sampled = sum(told["sampled_bytes"].values()) / 1e9
        row = [f"{sampled:.2f}", f"{told['words']['distinct']:,}", f"{told['words']['trained_on']:,}", f"{finished.peak / 1e6:,.0f}", f"{finished.cpu:,.0f}"]
        rows.append([*row, f"{finished.wall:,.0f}"])
        print(f"{gigabytes:g} GB: {row}; load {os.getloadavg()[0]:.1f}", flush=True)
        for place in (documents.folder, out):
            shutil.rmtree(place)
    head = ["sample, GB", "different words counted", "trained on", "peak MB, all processes", "CPU s", "wall s"]
    markdown(f"iberlm train-tokenizer, {arguments.vocabulary:,} pieces", head, rows)
