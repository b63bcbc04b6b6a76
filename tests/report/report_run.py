"""A run folder as the stages would leave it, made with the real stage runner, and hostile text in every place where text can be."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pretrain_run import SCRIPT, write_pretrain
from ruamel.yaml import YAML

from iberlm.core.documents import batches_of, write_documents
from iberlm.core.files import write_json, write_text
from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage

SECTIONS = (
    *("line", "sources", "funnel", "rights", "repeats", "tokens", "tokenizer"),
    *("training", "curves", "evaluation", "finetuning", "samples", "generations", "configuration"),
)
"""Anchors of the sections in their order."""
RIGHT_TO_LEFT = "\u202eשלום עולם مرحبا\u202c"
LONG_WORD = "x" * 5000
HOSTILE = f"{SCRIPT}\x00\x07\x85{RIGHT_TO_LEFT}\ud800 {LONG_WORD}"
ISSUE = "The texts are synthetic, not human-reviewed: no teacher has read them."
CARD = "invented_texts"


@dataclass
class Settings:
    """Settings of a stand-in stage."""

    name: str = "small"
    redact: dict[str, str] = field(default_factory=lambda: {"email": "tag", "iban": "pseudonym", "gps": "keep"})
    contaminated: str = "drop"
    honour_reservations: bool = True


Write = Callable[[Path, Record], None]


def stage(name: str, folder: Path, write: Write, settings: Any = None, inputs: list[Manifest] | None = None) -> Manifest:
    """A finished stage whose files and numbers `write` makes."""

    def body(config: Any, inputs: list[Manifest], out: Path, record: Record) -> None:
        write(out, record)

    return run_stage(name, 1, body, settings or Settings(), inputs or [], folder)


def write_card(folder: Path) -> None:
    """A valid card of a synthetic data set."""
    card = {
        "schema_version": 1,
        "name": CARD,
        "title": "Invented texts in five languages",
        "description": "Short texts about towns, kitchens and football, written by a language model for this purpose and for no other one.",
        "version": "1.0.0",
        "languages": [{"tag": tag, "proportion": 0.2, "basis": "documents"} for tag in LANGUAGES],
        "registers": ["administrative", "literary"],
        "modality": "text",
        "source_type": "synthetic",
        "synthetic": {"generators": [{"model": "a model", "licence": "Apache-2.0"}], "method": "Prompts by register and topic."},
        "licence": {
            "spdx": "Apache-2.0",
            "url": "javascript:alert(1)",
            "evidence": {"kind": "file", "ref": "LICENSE", "checked_on": date(2026, 11, 1)},
        },
        "tdm": {"status": "not_applicable"},
        "personal_data": {"present": "none", "special_categories": False},
        "pii": {"status": "not_needed"},
        "dates": {"collected_from": date(2026, 11, 1), "collected_to": date(2026, 11, 2)},
        "files": [{"path": "x.jsonl", "sha256": "0" * 64, "bytes": 1}],
        "splits": [{"name": "train", "files": ["x.jsonl"], "documents": 1}],
        "quality": {"known_issues": [ISSUE, f"hostile {SCRIPT}"], "human_reviewed": 0.0},
        "permitted_uses": ["pretrain"],
        "maintainer": {"name": "A person", "email": "person@example.org"},
        "takedown": {"contact": "removal@example.org", "sla_days": 14},
    }
    folder.mkdir(parents=True, exist_ok=True)
    YAML(typ="safe").dump(card, folder / f"{CARD}.yaml")


def _fetch(out: Path, record: Record) -> None:
    rows = [{"path": f"{tag}.jsonl", "language": tag, "card": CARD, "licence": "Apache-2.0", "bytes": 60_000} for tag in LANGUAGES]
    write_text(out / "files.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    record.output(out / "files.jsonl", len(rows))
    record.cards = {CARD: "Apache-2.0", "card_elsewhere": f"CC0-1.0 {SCRIPT}"}


def _extract(out: Path, record: Record) -> None:
    for tag in LANGUAGES:
        record.counts.keep(tag, 53)
    record.counts.keep("en", 7)
    record.counts.drop("und", "quarantine_not_utf8", 2)
    record.counts.drop("und", "skipped_content_type", 30)
    record.metrics = {"normalised": {"mojibake": 3, "punt_volat": 41}}


def _annotate(out: Path, record: Record) -> None:
    for tag in LANGUAGES:
        record.counts.keep(tag, 52)
    record.counts.keep("en", 12)
    record.metrics = {"bytes": 400_000, "personal_data": 21, "mixed_documents": 17}


def _dedup(out: Path, record: Record) -> None:
    repeated = {"different": 4, "spans": 120, "characters": 9_321}
    record.metrics = {"documents": 272, "clusters": 250, "largest_cluster": 6, "exact_duplicates": 5, "near_duplicates": 17, "url_duplicates": 8}
    record.metrics |= {"repeated_paragraphs": repeated, "phase_seconds": {"join": 0.5}, "disk_bytes": 14_172}


def _decontaminate(out: Path, record: Record) -> None:
    record.metrics = {
        "documents": {tag: {"clean": 50, "contaminated": index} for index, tag in enumerate(LANGUAGES)},
        "suites": {"iberlm": {"items": 380, "searched": 300, "seen": 6}, f"a suite {SCRIPT}": {"items": 10, "searched": 0, "seen": 0}},
        "tasks_without_data": ["xstorycloze_eu"],
        "ngrams": 4_812,
    }


def _robots(out: Path, record: Record) -> None:
    refused_by = {"*": 9, "GPTBot": 14, "content-signal": 4} | {f"Agent{number}": 1 for number in range(15)}
    hosts = {"rules": 1_204, "no_file": 310, "unparsable": 22, "redirect": 4}
    record.metrics = {
        "verdicts": {tag: {"allowed": 30, "disallowed": 3, "no_file": 12, "unparsable": 1, "no_url": 5, "new_verdict": 1} for tag in LANGUAGES},
        "refused_by": refused_by,
        "snapshot": {"files": 1, "records": 1_540, "hosts": hosts, "fetched_from": "2025-01-02T03:04:05Z", "fetched_to": "2025-01-31T00:00:00Z"},
    }


def _quality(out: Path, record: Record) -> None:
    record.metrics = {"documents_by_tenth_of_score": {tag: [1, 0, 2, 3, 2, 4, 7, 9, 11, 14 - index] for index, tag in enumerate(LANGUAGES)}}


REASONS = {
    "removed": 1,
    "reserved": 2,
    "robots": 1,
    "language": 2,
    "language_score": 1,
    "mixed_language": 1,
    "too_short": 1,
    "stop_words": 1,
    "placeholder": 1,
    "duplicate_paragraphs": 1,
    "short_lines": 1,
    "curly_brackets": 1,
    "policy_lines": 1,
    "quality": 1,
    "contaminated": 1,
    "little_left": 1,
    "url_duplicate": 1,
    "duplicate": 1,
    "near_duplicate": 1,
    "a_rule_of_tomorrow": 1,
}
"""Documents of a language that are dropped; the last reason is one that the report does not know."""


def _select(out: Path, record: Record) -> None:
    for index, tag in enumerate(LANGUAGES):
        record.counts.keep(tag, 40 - index)
        for reason, number in REASONS.items():
            record.counts.drop(tag, reason, number + (index if reason == "near_duplicate" else 0))
        row = {"text": "text", "language": tag, "source": "s", "card": CARD, "licence": "Apache-2.0"}
        rows = [{**row, "id": f"{tag}-{number}"} for number in range(40 - index)]
        path = out / "documents" / f"train.{file_safe(tag)}.parquet"
        record.output(path, write_documents(path, batches_of(rows)))
    record.counts.drop("und", "language", 12)
    entry = {"id": "doc-1", "source": f"package {SCRIPT}", "identified": "ca", "text": HOSTILE}
    plain = "El mercat ha tornat a obrir les portes després de dos anys d'obres.\n\nLes parades noves són més amples i hi ha llum natural."
    kept = {tag: [{**entry, "id": f"doc-{tag}-{number}", "identified": tag, "text": plain} for number in range(2)] for tag in LANGUAGES}
    dropped = {
        "ca": {"too_short": [entry], "duplicate": [entry, "not an entry"], "a_rule_of_tomorrow": [entry]},
        "eu": {"language": [{**entry, "identified": 'fr" onclick="x'}]},
        "und": {"language": [{**entry, "identified": "other"}]},
    }
    # the hostile text holds a lone surrogate, which JSON can carry as an escape
    write_text(out / "samples.json", json.dumps({"kept": kept, "dropped": dropped}))
    record.output(out / "samples.json")
    loss = {"reserved": {"documents": 2, "characters": 3_000}, "robots": {"documents": 1, "characters": 1_000}}
    record.metrics = {
        "redacted": {tag: {"email": 3, "iban": 1, "new_kind": 1} for tag in LANGUAGES},
        "bytes": {},
        "reserved": dict.fromkeys(LANGUAGES, loss),
        "characters_kept": dict.fromkeys(LANGUAGES, 76_000),
        "licences": {tag: {"Apache-2.0": 39 - index, f"CC0-1.0 {SCRIPT}": 1} for index, tag in enumerate(LANGUAGES)},
    }


def _train_tokenizer(out: Path, record: Record) -> None:
    def fit(shift: float) -> dict[str, Any]:
        numbers = {tag: (1.5 + shift + 0.13 * index, 4.2 - 0.2 * index, 0.7 - 0.05 * index) for index, tag in enumerate(LANGUAGES)}
        keys = ("tokens_per_word", "bytes_per_token", "whole_words")
        return {tag: dict(zip(keys, values, strict=True)) for tag, values in numbers.items()}

    def measured(shift: float) -> dict[str, Any]:
        tokens = {tag: 800 + round(100 * shift) + 12 * index for index, tag in enumerate((*LANGUAGES, "en"))}
        own = {"tokens_per_word": {tag: 1.4 + shift + 0.1 * index for index, tag in enumerate((*LANGUAGES, "en"))}}
        parallel = {"source": "embedded", "sentences": 30, "tokens": tokens, **own, "languages": [*LANGUAGES], "missing": [], "gini": 0.0116, "ratio": 1.06}
        probes = {
            "digits": {"digits_per_token": 1.0, "single": True},
            "punt_volat": {"tokens_per_word": 1.67 + shift},
            "elision": {"tokens_per_word": 1.25},
            "code": {"bytes_per_token": 2.5},
            "english": {"tokens_per_word": 1.5 + shift},
        }
        pieces = {"trained": 7_500, "partial": 0, "unreachable": 2, "unreachable_examples": [f" {SCRIPT}", "12"], "unused": None, "missing_bytes": []}
        return {"vocabulary_size": 8000, "languages": fit(shift), "parallel": parallel, "probes": probes, "pieces": pieces}

    record.metrics = measured(0.0)
    record.metrics["pieces"] |= {"unused": 600, "unused_examples": [" tàb", "ibreOffice"], "intermediate": 590, "dead": 602, "dead_share": 0.0803}
    record.metrics["pieces"] |= {"glitch_count": 3, "glitch": [" fiche\u202e", "\x00\n", LONG_WORD[:60]]}
    rounds = [{"weights": dict.fromkeys(LANGUAGES, 0.2), "gini": 0.0301}, {"weights": dict.fromkeys(LANGUAGES, 0.2) | {"eu": 0.3}, "gini": 0.0116}]
    record.metrics["parity"] = {"rounds": rounds, "chosen": 1}
    record.metrics["compared"] = {f"other {SCRIPT}": measured(0.4), "a tokenizer with quite a long name in a folder": measured(0.9)}
    record.metrics["weights"] = dict.fromkeys(LANGUAGES, 0.2)
    record.metrics["words"] = {"distinct": 91_234, "trained_on": 91_234}
    record.metrics["gates"] = {
        "bytes": {"passed": True, "value": 0, "limit": 0, "message": "every byte has an id, so any text can be written"},
        "dead_pieces": {"passed": False, "value": 0.0803, "limit": 0.05, "message": f"602 of 7,500 pieces are dead {SCRIPT}"},
        "deterministic": {"passed": None, "value": None, "limit": True, "message": "it was trained only once, so nothing is known"},
        "round_trip": {"passed": True, "value": 0, "limit": 0, "message": "300 texts came back as they were"},
        "cost": {"passed": True, "value": 1.06, "limit": 1.25, "message": "the same content takes 1.060 times as many tokens in gl as in es"},
        "gate_of_tomorrow": {"passed": True, "message": "all is well"},
    }


def _tokenize(out: Path, record: Record) -> None:
    def both(train: int, validation: int) -> dict[str, dict[str, int]]:
        return {"train": {tag: train - 7 * index for index, tag in enumerate(LANGUAGES)}, "validation": dict.fromkeys(LANGUAGES, validation)}

    record.metrics = {"documents": both(38, 2), "bytes": both(58_000, 3100), "tokens": both(15_123, 801)}
    record.metrics["unigram_bits_per_byte"] = {tag: 2.6 + 0.05 * index for index, tag in enumerate(LANGUAGES)}
    record.metrics |= {"unigram_model": dict.fromkeys(LANGUAGES, "own"), "dtype": "uint16", "vocabulary_size": 8000}


def _evaluate(shift: float) -> Write:
    def write(out: Path, record: Record) -> None:
        def row(metric: str, value: float, error: float, n: int, chance: float | None, note: str | None = None) -> dict[str, Any]:
            ends = {"low": value - 2 * error, "high": value + 2 * error}
            return {"task": "t", "metric": metric, "value": value, "stderr": error, **ends, "n": n, "chance": chance, "note": note, "averaged": n >= 100}

        table = {
            "bits_per_byte": {tag: row("bits_per_byte", 2.3 - shift, 0.05, 2, None) for tag in LANGUAGES},
            "minimal_pairs": {tag: row("acc", 0.62 + shift + 0.03 * index, 0.067, 52, 0.5) for index, tag in enumerate(LANGUAGES)},
            "reading": {tag: row("acc", 0.25, 0.09, 24, 0.25, "constant prediction: always choice 0") for tag in LANGUAGES},
            "variety_choice": {
                "ca-valencia": row("acc", 0.55 + shift, 0.04, 156, 0.5)
                | {"groups": {name: {"value": 0.5 + shift, "low": 0.2, "high": 0.8, "n": 12} for name in ("este_aquest", "meua_meva")}}
            },
        }
        languages = {tag: {"value": None, "low": None, "high": None, "tasks": [], "left_out": [{"task": "t", "why": "24 items"}]} for tag in LANGUAGES}
        languages["ca-valencia"] |= {"value": 12.5 + 100 * shift, "low": 4.0, "high": 21.0, "tasks": ["reading_ca_valencia"]}
        counts = {"kept": 40, "central": 60, "valencian": 20, "contrary": 12}
        variety = {"ca": {"frames": 132, "counts": counts, "shares": {kind: count / 132 for kind, count in counts.items()}}}
        files = {"table.json": table, "languages.json": languages, "variety.json": variety}
        if shift:
            files["comparison.json"] = {"sentences": [SENTENCE], "tasks": [_verdict("minimal_pairs_eu", "A"), _verdict("reading_gl", "")]}
        for name, value in files.items():
            write_json(out / name, value)
            record.output(out / name)
        record.metrics = table

    return write


SENTENCE = "no difference can be seen on eu with 120 items"
DOUBT = "A and B differ on fewer than 5 items (or passages): too few to call one better"


def _verdict(task: str, better: str) -> dict[str, Any]:
    numbers = {"difference": {"value": 0.042, "low": 0.011, "high": 0.073}, "p": 0.0004, "p_holm": 0.02, "detectable": 0.05}
    return {"task": task, "language": task[-2:], "metric": "acc", **numbers, "only_a": 9, "only_b": 3, "better": better, "remarks": [] if better else [DOUBT]}


def _finetune(out: Path, record: Record) -> None:
    lines = [{"step": n, "loss": 4.0 - 0.02 * n, "lr": 2e-5} for n in range(1, 61)]
    write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    samples = [
        {
            "language": "eu",
            "prompt": "Nola eskatu dezaket liburutegiko txartela?",
            "before": "",
            "after": "Zoaz liburutegira zure nortasun agiriarekin.",
            "stopped": True,
        },
        {"language": "ca", "prompt": HOSTILE, "before": HOSTILE, "after": HOSTILE, "stopped": False},
    ]
    write_text(out / "samples.json", json.dumps(samples))
    record.metrics = {"train_loss": {"first": 3.98, "last": 2.81}, "validation_loss": {"before": 4.1, "after": 3.0}, "examples": 160, "answer_tokens": 9001}


STAGES: dict[str, tuple[str, str, Write]] = {
    "fetch": ("fetch", "fetch", _fetch),
    "extract": ("extract", "extract", _extract),
    "annotate": ("annotate", "annotate", _annotate),
    "dedup": ("dedup", "dedup", _dedup),
    "decontaminate": ("decontaminate", "decontaminate", _decontaminate),
    "robots": ("robots", "robots", _robots),
    "quality": ("quality", "quality", _quality),
    "select": ("select", "curate", _select),
    "train_tokenizer": ("train_tokenizer", "train_tokenizer", _train_tokenizer),
    "tokenize": ("tokenize", "tokenize", _tokenize),
    "pretrain": ("pretrain", "pretrain", write_pretrain),
    "evaluate": ("evaluate", "evaluate", _evaluate(0.0)),
    "finetune": ("finetune", "finetune", _finetune),
    "evaluate_finetuned": ("evaluate", "evaluate_finetuned", _evaluate(0.05)),
}


def make_run(folder: Path) -> list[Manifest]:
    """All stages of a run, in the order of the line; the selection says what it read."""
    manifests: list[Manifest] = []
    for name, place, write in STAGES.values():
        manifests.append(stage(name, folder / place, write, inputs=manifests[1:] if name == "select" else None))
    return manifests
