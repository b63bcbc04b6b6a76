"""Bad input through the command line: a clear message or a counted quarantine, and nothing half-written that a rerun takes for whole."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import iberlm.sources.sample
from iberlm.core.manifest import read_manifest
from iberlm.core.token_store import open_shard

CARD = """\
schema_version: 1
name: own_texts
title: Own texts
description: "Forty short texts in Spanish out of the embedded sample, to which the tests add the kinds of bad files that users have on their disks."
version: 1.0.0
languages: [{tag: es, proportion: 1.0, basis: documents}]
registers: [educational]
modality: text
source_type: other
licence:
  spdx: CC0-1.0
  url: https://creativecommons.org/publicdomain/zero/1.0/
  evidence: {kind: file, ref: This card, checked_on: 2026-01-15}
tdm: {status: not_applicable}
personal_data: {present: none, special_categories: false}
pii: {status: not_needed}
dates: {collected_from: 2026-01-10, collected_to: 2026-01-15}
source: {kind: repository, paths: [corpus/texts.jsonl]}
splits: [{name: train, files: [corpus/texts.jsonl], documents: 40}]
quality: {known_issues: [Far too small to train a useful model.]}
permitted_uses: [pretrain]
maintainer: {name: Tests, email: tests@iberlm.example}
takedown: {contact: tests@iberlm.example, sla_days: 14}
"""
CORPUS = ["corpus=path", "corpus.sources.local.card=own_texts", "corpus.sources.local.language=es", "run_dir=run"]
FETCH = ["fetch", *CORPUS, "corpus.sources.local.path=corpus"]
CURATE = ["curate", "select.languages=[es]", "run_dir=run"]
TRAIN_TOKENIZER = ["train-tokenizer", "tokenizer=bpe_4k", "tokenizer.vocabulary_size=700", "run_dir=run"]
TOKENIZE = ["tokenize", "run_dir=run"]
PRETRAIN = [
    "pretrain",
    "run_dir=run",
    "model.hidden_size=16",
    "model.layers=1",
    "model.heads=2",
    "model.kv_heads=2",
    "model.ffn_size=32",
    "sequence_length=16",
    "micro_batch_size=2",
    "global_batch_tokens=32",
    "schedule.warmup_steps=2",
    "prompts={es: La}",
    "max_new_tokens=2",
    "tracker=none",
]
SHORT = [*PRETRAIN, "steps=40", "checkpoint.every_steps=20"]
LONG_STEPS = 600
"""Enough for a signal to land, seconds in all."""
LONG = [*PRETRAIN, f"steps={LONG_STEPS}", "checkpoint.every_steps=50", "checkpoint.keep_last=3"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
GIGABYTE = 1 << 30


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "iberlm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=ENVIRONMENT, timeout=1200)


def done(folder: Path, *arguments: str) -> str:
    """Run to the end; what was said."""
    ended = run(folder, *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def refused(folder: Path, status: int, *arguments: str) -> str:
    """Run what must fail with `status` and one message without a traceback; the message."""
    ended = run(folder, *arguments)
    assert "Traceback" not in ended.stderr, ended.stderr[-2000:]
    assert ended.returncode == status, ended.stderr
    messages = [line for line in ended.stderr.splitlines() if line.startswith("iberlm: ")]
    assert len(messages) == 1, ended.stderr
    return messages[0]


def complete(folder: Path, stage: str) -> bool:
    return (folder / "run" / stage / "manifest.json").exists()


def cut(path: Path, size: int = 100) -> None:
    os.truncate(path, path.stat().st_size - size)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Change bytes in place: the size stays what the manifest says."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(content)


def lines() -> list[bytes]:
    """Forty records of Spanish text, with their line ends."""
    sample = (iberlm.sources.sample.FOLDER / "documents.es.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.dumps({"id": str(number), "text": json.loads(line)["text"]}).encode() + b"\n" for number, line in enumerate(sample)]


def place_card(folder: Path) -> None:
    (folder / "data_cards").mkdir(parents=True)
    (folder / "data_cards" / "own_texts.yaml").write_text(CARD, encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a card, a small corpus and the stages up to the token store."""
    folder = tmp_path_factory.mktemp("made")
    place_card(folder)
    (folder / "corpus").mkdir()
    (folder / "corpus" / "texts.jsonl").write_bytes(b"".join(lines()))
    for arguments in (FETCH, CURATE, TRAIN_TOKENIZER, TOKENIZE):
        done(folder, *arguments)
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` to break."""
    return Path(shutil.copytree(made, tmp_path / "work"))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder with nothing but the card."""
    place_card(tmp_path / "empty")
    return tmp_path / "empty"


# Sources


@pytest.mark.parametrize(
    ("files", "path", "told"),
    [
        ([], "corpus/**/*.jsonl", "'corpus/**/*.jsonl' matches no file"),
        ([], "corpus", "'corpus' matches no file"),
        (["a.jsonl", "b.txt"], "corpus", "matches only empty files (2)"),
    ],
    ids=["pattern without files", "folder without files", "only empty files"],
)
def test_an_empty_source_is_refused_and_fetched_once_there_is_text(empty: Path, files: list[str], path: str, told: str) -> None:
    (empty / "corpus").mkdir()
    for name in files:
        (empty / "corpus" / name).touch()
    arguments = ["fetch", *CORPUS, f"corpus.sources.local.path={path}"]
    message = refused(empty, 4, *arguments)
    assert "corpus.sources.local.path" in message
    assert told in message
    assert not complete(empty, "fetch")
    (empty / "corpus" / "texts.jsonl").write_bytes(b"".join(lines()[:3]))
    done(empty, *arguments)
    assert complete(empty, "fetch")


def test_a_file_of_no_known_format_is_named(empty: Path) -> None:
    (empty / "corpus").mkdir()
    (empty / "corpus" / "texts.jsonl").write_bytes(b"".join(lines()[:3]))
    (empty / "corpus" / "core.dump").write_bytes(bytes(range(256)))
    assert "core.dump: neither its name nor its content tells its format" in refused(empty, 4, *FETCH)
    assert not complete(empty, "fetch")
    (empty / "corpus" / "core.dump").unlink()
    done(empty, *FETCH)


# Quarantine

Spoiled = tuple[dict[str, list[tuple[object, str]]], dict[str, int], dict[str, int], int]


def _spoil(folder: Path) -> None:
    texts = lines()
    packed = gzip.compress(b"".join(texts[10:25]), mtime=0)
    (folder / "good.jsonl").write_bytes(b"".join(texts[:5]))
    (folder / "empty.jsonl").touch()
    (folder / "plain.jsonl.gz").write_bytes(b"".join(texts[5:10]))
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) * 2 // 3])
    (folder / "page.parquet").write_text("<!doctype html><html><body>404</body></html>", encoding="utf-8")
    (folder / "binary.jsonl").write_bytes(bytes(range(256)) * 8)
    (folder / "latin1.jsonl").write_bytes(texts[25] + '{"text": "Año de nieves, año de bienes"}\n'.encode("latin-1") + texts[26])
    (folder / "records.jsonl").write_bytes(texts[27] + b'{"title": "sin texto"}\n{"text": null}\n["lista"]\n{"text": "cort\n' + texts[28])
    with (folder / "long.jsonl").open("wb") as stream:
        stream.write(texts[29] + b'{"text": "')
        for _ in range(200):
            stream.write(b"una " * (1 << 18))
        stream.write(b'"}\n' + texts[30])


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Spoiled:
    """Of a corpus with every kind of bad file: rejects and documents by file, documents dropped by reason, peak memory in bytes."""
    folder = tmp_path_factory.mktemp("spoiled")
    place_card(folder)
    (folder / "corpus").mkdir()
    _spoil(folder / "corpus")
    measure = "import resource, subprocess, sys; status = subprocess.run(sys.argv[1:]).returncode"
    measure += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(status)"
    peak = 0
    for arguments in (FETCH, CURATE):
        command = [sys.executable, "-c", measure, sys.executable, "-m", "iberlm", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=ENVIRONMENT, timeout=1200)
        assert ended.returncode == 0, ended.stderr
        peak = max(peak, int(ended.stdout))
    (folder / "corpus" / "long.jsonl").unlink()
    extracted = read_manifest(folder / "run/extract")
    rejects: dict[str, list[tuple[object, str]]] = {}
    for path in extracted.paths("quarantine"):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            rejects.setdefault(Path(entry["source"]).name, []).append((entry["record"], entry["reason"]))
    kept: dict[str, int] = {}
    for path in read_manifest(folder / "run/curate").paths("documents/"):
        for source in _sources(path):
            name = Path(source.split("#")[0]).name
            kept[name] = kept.get(name, 0) + 1
    return rejects, kept, extracted.counts.dropped["es"], peak


def _sources(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [str(source) for source in pq.read_table(path, columns=["source"]).column("source").to_pylist()]


@pytest.mark.parametrize(
    ("name", "rejects", "documents"),
    [
        ("good.jsonl", [], 5),
        ("empty.jsonl", [(None, "empty_file")], 0),
        ("plain.jsonl.gz", [(None, "not_gzip")], 0),
        ("page.parquet", [(None, "not_parquet")], 0),
        ("latin1.jsonl", [(1, "invalid_utf8")], 2),
        ("records.jsonl", [(1, "no_text"), (2, "no_text"), (3, "not_object"), (4, "not_json")], 2),
        ("long.jsonl", [(1, "line_too_long")], 2),
    ],
)
def test_what_cannot_be_read_is_in_quarantine_and_its_neighbours_are_kept(
    spoiled: Spoiled, name: str, rejects: list[tuple[object, str]], documents: int
) -> None:
    assert spoiled[0].get(name, []) == rejects
    assert spoiled[1].get(name, 0) == documents


def test_records_before_the_cut_of_a_gzip_file_are_kept(spoiled: Spoiled) -> None:
    assert spoiled[0]["cut.jsonl.gz"] == [(None, "truncated_gzip")]
    assert 5 <= spoiled[1]["cut.jsonl.gz"] < 15


def test_no_document_comes_out_of_a_binary_file(spoiled: Spoiled) -> None:
    assert {reason for _, reason in spoiled[0]["binary.jsonl"]} <= {"not_json", "invalid_utf8", "not_jsonl"}
    assert "binary.jsonl" not in spoiled[1]


def test_every_reject_is_counted_under_its_reason(spoiled: Spoiled) -> None:
    found: dict[str, int] = {}
    for entries in spoiled[0].values():
        for _, reason in entries:
            found[f"quarantine_{reason}"] = found.get(f"quarantine_{reason}", 0) + 1
    assert spoiled[2] == found


def test_a_line_of_200_megabytes_does_not_fill_the_memory(spoiled: Spoiled) -> None:
    assert spoiled[3] < GIGABYTE


def test_a_corpus_of_nothing_but_bad_files_is_refused_with_the_reasons(empty: Path) -> None:
    (empty / "corpus").mkdir()
    (empty / "corpus" / "texts.jsonl").write_bytes(b"\xff\xfe\n" * 5)
    done(empty, *FETCH)
    ended = run(empty, *CURATE)
    assert ended.returncode == 4
    assert "Traceback" not in ended.stderr
    assert "not one document came out" in ended.stderr
    assert "5  quarantine_invalid_utf8" in ended.stderr
    assert not complete(empty, "extract")
    (empty / "corpus" / "texts.jsonl").write_bytes(b"".join(lines()))
    done(empty, *FETCH)
    done(empty, *CURATE)


# Curation and tokenizer


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["select.languages=[es,eu]"], ["eu: no document left (there was none to begin with)"]),
        (["filters.es.min_words=100000"], ["es: no document left (too_short 40)", "filters"]),
    ],
)
def test_a_language_without_documents_is_named_with_its_reasons(work: Path, overrides: list[str], told: list[str]) -> None:
    message = refused(work, 4, *CURATE, *overrides)
    for part in told:
        assert part in message
    assert not complete(work, "curate")
    assert "select: start" in done(work, *CURATE)


def test_a_vocabulary_larger_than_the_data_allow_is_refused_with_the_largest_possible(work: Path) -> None:
    message = refused(work, 4, *TRAIN_TOKENIZER, "tokenizer.vocabulary_size=60000")
    assert "tokenizer.vocabulary_size: 60000 is too large for this text: at most " in message
    assert not complete(work, "train_tokenizer")
    most = int(message.split("at most ")[1].split()[0])
    done(work, *TRAIN_TOKENIZER, f"tokenizer.vocabulary_size={most}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tokenizer.mixture.kind=weights"], "tokenizer.mixture: kind=weights with 0 weights"),
        (["tokenizer.algorithm=extend"], "tokenizer.base: '' with algorithm=extend"),
        (["tokenizer.algorithm=extend", "tokenizer.base=nothing"], "no tokenizer.json in nothing"),
        (["parallel=nothing"], "nothing: there is no such folder"),
        (["compare=[nothing]"], "nothing: there is no such folder or file"),
        (["tokenizer.parity.rounds=2"], "no two of es can be compared"),
    ],
)
def test_tokenizer_settings_that_cannot_be_followed_are_refused(work: Path, arguments: list[str], told: str) -> None:
    completed = run(work, *TRAIN_TOKENIZER, *arguments)
    assert completed.returncode in (2, 4), completed.stderr
    assert told in completed.stderr
    assert "Traceback" not in completed.stderr


def test_a_documents_file_cut_short_is_named(work: Path) -> None:
    cut(work / "run/curate/documents/train.es.00000.parquet")
    for arguments, out in ((TRAIN_TOKENIZER, "other_tokenizer"), (TOKENIZE, "other_tokens")):
        message = refused(work, 5, *arguments, f"out=run/{out}")
        assert "documents/train.es.00000.parquet: " in message
        assert "run the 'select' stage again" in message
        assert not complete(work, out)
    assert "train.es.00000.parquet" in done(work, *CURATE)
    done(work, *TOKENIZE, "out=run/other_tokens")


def test_a_tokenizer_cut_short_is_named(work: Path) -> None:
    cut(work / "run/train_tokenizer/tokenizer/tokenizer.json")
    assert "tokenizer.json" in refused(work, 5, *TOKENIZE, "out=run/other_tokens")


# Token store


@pytest.mark.parametrize("name", ["es-00000.bin", "es-00000.idx"])
def test_a_token_store_cut_short_is_refused_and_made_again(work: Path, name: str) -> None:
    cut(work / "run/tokenize/train" / name)
    message = refused(work, 5, *SHORT)
    assert f"tokenize/train/{name}: " in message
    assert "run the 'tokenize' stage again" in message
    assert not complete(work, "pretrain")
    assert "tokenize: start" in done(work, *TOKENIZE)
    open_shard(work / "run/tokenize/train/es-00000")


def test_an_index_that_disagrees_with_its_tokens_is_refused_and_made_again(work: Path) -> None:
    stem = work / "run/tokenize/train/es-00000"
    overwrite(stem.with_suffix(".idx"), 40, b"\xff\xff")
    assert "es-00000.idx: its checksum is not the one in manifest.json; delete its folder" in refused(work, 5, *SHORT)
    message = refused(work, 5, *SHORT, "verify_store=sizes")
    assert "es-00000.bin" in message
    assert "delete its folder and tokenize again" in message
    assert not complete(work, "pretrain")
    shutil.rmtree(work / "run/tokenize")  # as the message says
    done(work, *TOKENIZE)
    open_shard(stem)


@pytest.mark.parametrize(("split", "damaged_bytes"), [("train", 40_000), ("validation", 200)])
def test_damaged_tokens_are_refused(work: Path, split: str, damaged_bytes: int) -> None:
    path = work / f"run/tokenize/{split}/es-00000.bin"
    overwrite(path, 8, b"\xff" * damaged_bytes)
    assert f"{split}/es-00000.bin: its checksum is not the one in manifest.json; delete its folder and run the 'tokenize' stage again" in refused(
        work, 5, *SHORT
    )
    assert "id 65535 in a vocabulary of 700" in refused(work, 5, *SHORT, "verify_store=sizes")
    overwrite(path, 0, b"\x09\x00")
    assert "id 9 stands where the bos id 1 belongs; tokenize again" in refused(work, 5, *SHORT, "verify_store=sizes")
    assert not complete(work, "pretrain")


def test_a_tokenizer_changed_after_tokenizing_is_refused(work: Path) -> None:
    path = work / "run/train_tokenizer/tokenizer/tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"NFC"', '"NFD"'), encoding="utf-8")
    assert path.stat().st_size == len(text.encode())  # no size tells it
    assert "tokenizer.json: missing, or changed after it was made: its checksum is not the one in manifest.json" in refused(work, 5, *SHORT)
    assert not complete(work, "pretrain")


def test_a_tokenizer_that_failed_a_gate_is_refused_unless_the_gate_is_waived(work: Path) -> None:
    done(work, *TRAIN_TOKENIZER, "tokenizer.check_determinism=false", "tokenizer.vocabulary_size=3000", "gates.max_dead_share=0")
    done(work, *TOKENIZE)
    message = refused(work, 4, *SHORT)
    assert "gate dead_pieces failed: " in message
    assert "gate deterministic was not measured: " in message
    assert "waived_gates=[dead_pieces, deterministic]" in message
    assert "waived_gates: the tokenizer has no gate 'dead'" in refused(work, 2, *SHORT, "waived_gates=[dead]")
    said = done(work, *SHORT, "waived_gates=[dead_pieces,deterministic]")
    assert "pretrain: gate dead_pieces waived: " in said


@pytest.mark.parametrize("change", ["tokenizer.vocabulary_size=650", "tokenizer.algorithm=unigram"])
def test_a_token_store_of_another_tokenizer_is_refused(work: Path, change: str) -> None:
    done(work, *TRAIN_TOKENIZER, change)
    assert "run/tokenize: " in refused(work, 5, *SHORT)
    assert not complete(work, "pretrain")


# Checkpoints


def _interrupt(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    """A pretraining that is told to stop at its third checkpoint, ended, and what it said."""
    checkpoints = folder / "run/pretrain/checkpoints"
    process = subprocess.Popen([sys.executable, "-m", "iberlm", *LONG], cwd=folder, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    deadline = time.monotonic() + 1200
    while len(list(checkpoints.glob("step-*"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=600)
    return process, said


@pytest.fixture(scope="module")
def interrupted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run that was told to stop when it had three checkpoints."""
    for _ in range(5):  # on a busy machine the training may end before this process is awake again
        folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("interrupted") / "work"))
        process, said = _interrupt(folder)
        if process.returncode != 0:
            break
    assert process.returncode == 75, said
    assert "on SIGTERM; run the same command again to go on" in said.splitlines()[-1]
    assert not complete(folder, "pretrain")
    return folder


def _cut_checkpoints(folder: Path, which: Callable[[list[Path]], list[Path]]) -> list[str]:
    chosen = which(sorted((folder / "run/pretrain/checkpoints").glob("step-*")))
    for path in chosen:
        cut(path / "__0_0.distcp")
    return [path.name for path in chosen]


def _steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "run/pretrain/metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "work"))
    before = sorted(path.name for path in (folder / "run/pretrain/checkpoints").glob("step-*"))
    (damaged,) = _cut_checkpoints(folder, lambda paths: paths[-1:])
    said = done(folder, *LONG)
    assert any(damaged in line and line.endswith("falling back to the one before") for line in said.splitlines())
    assert any("checkpoint: going on from " in line and line.endswith(f"run/pretrain/checkpoints/{before[-2]}") for line in said.splitlines())
    assert complete(folder, "pretrain")
    assert _steps(folder) == list(range(1, LONG_STEPS + 1))


@pytest.fixture(scope="module")
def all_cut(interrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """The interrupted run gone on with after all its checkpoints were cut: its folder, their names, what was said."""
    folder = Path(shutil.copytree(interrupted, tmp_path_factory.mktemp("cut") / "work"))
    damaged = _cut_checkpoints(folder, lambda paths: paths)
    return folder, damaged, done(folder, *LONG)


def test_with_every_checkpoint_damaged_training_begins_anew(all_cut: tuple[Path, list[str], str]) -> None:
    folder, damaged, said = all_cut
    for name in damaged:
        assert f"{name}/__0_0.distcp has " in said
    assert "checkpoint: going on from" not in said
    assert _steps(folder) == list(range(1, LONG_STEPS + 1))
    read_manifest(folder / "run/pretrain").check_files(checksums=True)


def test_beginning_anew_is_said(all_cut: tuple[Path, list[str], str]) -> None:
    _, damaged, said = all_cut
    oldest = next(line for line in said.splitlines() if f"{damaged[0]}/" in line)
    assert "falling back to the one before" not in oldest
    assert any(line.split(" ", 1)[1].startswith("checkpoint: ") and ("anew" in line or "step 0" in line) for line in said.splitlines())


# Disks


def _on_small_disk(made: Path, disk: Path, free_bytes: int, stages: list[str]) -> list[str]:
    """Copy finished stages to the disk and leave so much room; the override that makes a verb work there."""
    for stage in stages:
        shutil.copytree(made / "run" / stage, disk / "run" / stage)
    with (disk / "filler").open("wb") as stream:
        stream.write(b"\0" * (shutil.disk_usage(disk).free - free_bytes))
    return [f"run_dir={disk}/run"]


KILOBYTE = 1024


@pytest.mark.parametrize(
    ("arguments", "needs", "free_bytes", "full"),
    [
        pytest.param(FETCH, [], 4 * KILOBYTE, "fetch", id="fetch"),
        pytest.param(CURATE, ["fetch"], 16 * KILOBYTE, "extract", id="extract"),
        pytest.param(CURATE, ["fetch"], 60 * KILOBYTE, "annotate", id="annotate"),
        pytest.param(CURATE, ["fetch", "extract", "annotate", "dedup"], 20 * KILOBYTE, "curate", id="select"),
        pytest.param(TRAIN_TOKENIZER, ["curate"], 8 * KILOBYTE, "train_tokenizer", id="SentencePiece model"),
        pytest.param(TRAIN_TOKENIZER, ["curate"], 36 * KILOBYTE, "train_tokenizer", id="tokenizer.json"),
        pytest.param(TOKENIZE, ["curate", "train_tokenizer"], 32 * KILOBYTE, "tokenize", id="tokenize"),
        pytest.param(SHORT, ["tokenize", "train_tokenizer"], 200 * KILOBYTE, "pretrain", id="checkpoint"),
        pytest.param([*SHORT, "checkpoint.every_steps=0"], ["tokenize", "train_tokenizer"], 375 * KILOBYTE, "pretrain", id="model"),
    ],
)
def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_room(
    made: Path, small_disk: Path, arguments: list[str], needs: list[str], free_bytes: int, full: str
) -> None:
    place = _on_small_disk(made, small_disk, free_bytes, needs)
    message = refused(made, 6, *arguments, *place)
    assert f"{small_disk}/run/{full}" in message
    assert "the disk (or quota) is full; free some space and run the same command again" in message
    assert not complete(small_disk, full)
    (small_disk / "filler").unlink()
    done(made, *arguments, *place)
    read_manifest(small_disk / "run" / full).check_files(checksums=True)


def test_a_disk_that_fills_up_while_a_data_set_is_copied_is_said(made: Path, small_disk: Path) -> None:
    place = _on_small_disk(made, small_disk, 12 * KILOBYTE, [])
    arguments = ["fetch", "corpus=huggingface", "corpus.sources.hub.card=own_texts", "corpus.sources.hub.dataset=./corpus", *place]
    assert f"{small_disk}/run/fetch/raw/hub/00000.parquet: the disk (or quota) is full" in refused(made, 6, *arguments)
    assert not complete(small_disk, "fetch")


def test_a_disk_that_became_read_only_is_said(made: Path, small_disk: Path) -> None:
    shutil.copytree(made / "run/fetch", small_disk / "run/fetch")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for arguments in (CURATE, ["fetch", "corpus=sample"]):
        assert "cannot be written (Read-only file system)" in refused(made, 6, *arguments, f"run_dir={small_disk}/run")


# Cards


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fetch", *CORPUS, "corpus.sources.local.path=corpus", "corpus.sources.local.card=own_text"], "card 'own_text': not found in"),
        (
            ["fetch", *CORPUS, "corpus.sources.local.path=corpus", "corpus.sources.local.card=iberlm_sample_eval"],
            "'iberlm_sample_eval' does not permit 'pretrain'",
        ),
        (["finetune", "run_dir=run", "data.card=own_text"], "did you mean own_texts"),
        (["finetune", "run_dir=run", "data.card=iberlm_sample_eval"], "'iberlm_sample_eval' does not permit 'sft': its permitted uses are eval, redistribute"),
    ],
)
def test_a_card_that_is_unknown_or_forbids_the_use_is_refused(made: Path, arguments: list[str], told: str) -> None:
    assert told in refused(made, 3, *arguments, "out=run/forbidden")
    assert not (made / "run/forbidden").exists()


def test_tokens_whose_card_was_withdrawn_are_not_trained_on(work: Path) -> None:
    card = work / "data_cards" / "own_texts.yaml"
    card.unlink()
    assert "card 'own_texts': not found" in refused(work, 3, *SHORT)
    card.write_text(CARD.replace("[pretrain]", "[eval]"), encoding="utf-8")
    assert "card 'own_texts' does not permit 'pretrain'" in refused(work, 3, *SHORT)
    assert not (work / "run/pretrain").exists()
    card.write_text(CARD, encoding="utf-8")
    assert "pretrain: would run" in done(work, *SHORT, "dry_run=true")


# Folders


def test_a_folder_with_foreign_files_is_left_alone(work: Path) -> None:
    thesis = work / "thesis" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("capítulo 1", encoding="utf-8")
    assert "holds files that no stage of IberLM made (thesis.txt); choose an empty folder" in refused(work, 2, *FETCH, "out=thesis")
    assert thesis.read_text(encoding="utf-8") == "capítulo 1"
    assert sorted(path.name for path in thesis.parent.iterdir() if path.name != ".lock") == ["thesis.txt"]


def test_a_folder_with_another_program_s_manifest_is_left_alone(work: Path) -> None:
    site = work / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a web app has a manifest.json too", "start_url": "/"}', encoding="utf-8")
    (site / "index.html").write_text("<html></html>", encoding="utf-8")
    ended = run(work, *FETCH, "out=site")
    assert (site / "index.html").exists()
    assert ended.returncode == 2
    assert "choose an empty folder" in ended.stderr


def test_a_folder_of_another_stage_is_left_alone(work: Path) -> None:
    ended = run(work, *TOKENIZE, "out=run/curate")
    assert (work / "run/curate/documents/train.es.00000.parquet").exists()
    assert ended.returncode == 2
    assert "curate" in ended.stderr


@pytest.mark.parametrize("place", ["run_dir=notes", "out=notes"])
def test_a_file_in_the_place_of_the_folder_is_named(work: Path, place: str) -> None:
    (work / "notes").write_text("mine", encoding="utf-8")
    assert "notes" in refused(work, 2, *FETCH, place)
    assert (work / "notes").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 99}'], ids=["empty", "cut", "of another version"])
def test_a_damaged_manifest_of_an_input_is_named(work: Path, content: str) -> None:
    (work / "run/curate/manifest.json").write_text(content, encoding="utf-8")
    assert "run/curate/manifest.json: " in refused(work, 5, *TOKENIZE, "out=run/other_tokens")
    assert not (work / "run/other_tokens").exists()
