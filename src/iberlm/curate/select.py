"""Select: thresholds on columns, one document a cluster, passages cut, personal data replaced, and the split. Cheap, so it can be run again.

Every step maps over shards: decide (by columns alone), choose (among duplicates), settle (the verdict on every document), write. The
text is read only by the last, and only where something is kept. Each loss is counted under its reason, and under the identified
language if that is one of ours, else under what the source claimed.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iberlm.core.documents import read_batches, write_documents
from iberlm.core.errors import DataError
from iberlm.core.files import sha256_file, sha256_json, write_json, write_text
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Counts, Manifest, summed
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, run_stage
from iberlm.curate import pii
from iberlm.curate.aligned import read_rows
from iberlm.curate.config import SelectConfig
from iberlm.curate.removals import load_removals
from iberlm.curate.selection.choose import CHOICES, choose
from iberlm.curate.selection.corpus_card import corpus_card
from iberlm.curate.selection.decide import DECISIONS, DecideTask, Shard, decide_shard, shards_of
from iberlm.curate.selection.settle import SettleTask, chosen_samples, settle_shard, validation_limits
from iberlm.curate.selection.write import CURATED, DOCUMENTS, PARTS, WriteTask, pseudonym_key, write_group

VERSION = 2
SPLITS = ("train", "validation")
SAMPLES, CARD = "samples.json", "README.md"
SAMPLE_CHARACTERS = 700


def run(config: SelectConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Write `documents/train.LANG.NNNNN.parquet`, `documents/validation.LANG.parquet`, `verdicts/`, `samples.json` and the corpus's card.

    `inputs`: the manifests of extract and annotate, and of those of dedup, decontaminate, robots and quality that were run. Raises
    `DataError` when a language that was asked for has no document left, with its reasons, and `ConfigError` for bad removal requests.
    """
    fingerprint: dict[str, Any] = {}
    for path in map(Path, config.removals):
        load_removals(path)
        fingerprint.setdefault("removals", []).append(sha256_file(path))
    if key := pseudonym_key(config):  # another secret makes other bytes; the hash of a long one does not give it away
        fingerprint["pseudonyms"] = sha256_json(["pseudonyms", key])
    return run_stage("select", VERSION, _select, config, inputs, out, fingerprint=fingerprint, resumable=True)


def _select(config: SelectConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    shards = shards_of(inputs)
    width = config.workers
    decisions = {f"decide-{shard.name}": DecideTask(shard, config) for shard in shards}
    decided = map_shards("select: decide", decide_shard, decisions, record, workers=width).values()
    choices = choose(shards, sorted({licence for result in decided for licence in result.metrics["licences"]}), record, width)
    tasks = {f"settle-{shard.name}": SettleTask(shard, choices, config) for shard in shards}
    settled = list(map_shards("select: settle", settle_shard, tasks, record, workers=width).values())
    _require(config.languages, record.counts)
    limits = validation_limits(settled, config, record.counts.kept)
    groups = {f"write-{number:05d}": WriteTask(number, group, config, limits) for number, group in enumerate(_groups(shards, settled, config.file_bytes))}
    written = list(map_shards("select: write", write_group, groups, record, workers=width).values())
    _write_validation(config, record, written)
    samples = out / SAMPLES
    write_json(samples, _samples(shards, chosen_samples(settled, config.samples)))
    record.output(samples)
    record.metrics = {
        "redacted": summed(result.metrics["redacted"] for result in written),
        "bytes": _bytes(config, written),
        "reasons": _reason_table(record.counts),
        "reserved": summed(result.metrics["reserved"] for result in settled),
        "characters_kept": summed(result.metrics["characters_kept"] for result in settled),
        "licences": summed(result.metrics["licences"] for result in written),
    }
    write_text(out / CARD, corpus_card(record.counts, record.metrics, record.cards, config))
    record.output(out / CARD)
    for folder in (DECISIONS, CHOICES, PARTS):  # working files: what they hold is in verdicts/ and documents/
        record.outputs = {path: rows for path, rows in record.outputs.items() if not path.startswith(f"{folder}/")}
        shutil.rmtree(out / folder, ignore_errors=True)


def _groups(shards: list[Shard], settled: list[ShardResult], file_bytes: int) -> list[list[Shard]]:
    """Neighbouring shards whose kept text makes up about `file_bytes`: few large files, whatever the size of the shards."""
    groups: list[list[Shard]] = []
    size = 0
    for shard, result in zip(shards, settled, strict=True):
        kept = sum(result.metrics["characters_kept"].values())
        if not groups or size + kept > file_bytes:
            groups.append([])
            size = 0
        groups[-1].append(shard)
        size += kept
    return groups


def _write_validation(config: SelectConfig, record: Record, written: list[ShardResult]) -> None:
    """Join the few documents that are set aside to one file a language; an empty one where there are none."""
    parts = sorted(path for result in written for path in result.outputs if path.startswith(f"{PARTS}/"))
    for language in config.languages:
        mine = [record.folder / path for path in parts if Path(path).name.startswith(f"validation.{file_safe(language)}.")]
        path = record.folder / DOCUMENTS / f"validation.{file_safe(language)}.parquet"
        record.output(path, write_documents(path, (batch for part in mine for batch in read_batches(part)), CURATED))


def _require(languages: list[str], counts: Counts) -> None:
    empty = [language for language in languages if not counts.kept.get(language)]
    if not empty:
        return
    details = []
    for language in empty:
        reasons = sorted(counts.dropped.get(language, {}).items(), key=lambda entry: -entry[1])
        told = ", ".join(f"{reason} {documents}" for reason, documents in reasons) or "there was none to begin with"
        details.append(f"{language}: no document left ({told})")
    raise DataError(f"{'; '.join(details)}. Add sources, loosen the limits (filters=), or leave the language out (curate select.languages)")


def _samples(shards: list[Shard], wanted: dict[int, tuple[str, str]]) -> dict[str, Any]:
    """For the report: a few documents a language and reason, shortened and redacted."""
    samples: dict[str, Any] = {"kept": {}, "dropped": {}}
    for shard in shards:
        mine = sorted(number - shard.first for number in wanted if shard.first <= number < shard.first + shard.rows)
        for row, entry in _shown(shard, mine) if mine else ():
            language, reason = wanted[shard.first + row]
            if reason:
                samples["dropped"].setdefault(language, {}).setdefault(reason, []).append(entry)
            else:
                samples["kept"].setdefault(language, []).append(entry)
    return samples


def _shown(shard: Shard, rows: list[int]) -> Iterable[tuple[int, dict[str, Any]]]:
    documents = read_rows(shard.documents, rows, ["id", "text", "source", "url"]).to_pylist()
    annotations = read_rows(shard.beside["annotate"], rows, ["language", "personal_data"]).to_pylist()
    for row, document, beside in zip(rows, documents, annotations, strict=True):
        text = pii.redact(document["text"], [pii.Span(**span) for span in beside["personal_data"]])
        shortened = text[:SAMPLE_CHARACTERS] + (" …" if len(text) > SAMPLE_CHARACTERS else "")
        yield row, {"id": document["id"], "source": document["url"] or document["source"], "identified": beside["language"], "text": shortened}


def _bytes(config: SelectConfig, written: list[ShardResult]) -> dict[str, dict[str, int]]:
    """UTF-8 bytes of kept text by split and language, after cuts and redaction."""
    found = summed(result.metrics["bytes"] for result in written)
    return {split: {language: found.get(split, {}).get(language, 0) for language in config.languages} for split in SPLITS}


def _reason_table(counts: Counts) -> dict[str, int]:
    totals: dict[str, int] = {}
    for reasons in counts.dropped.values():
        for reason, documents in reasons.items():
            totals[reason] = totals.get(reason, 0) + documents
    return dict(sorted(totals.items(), key=lambda entry: -entry[1]))
