"""A finished curation of some forty Galician and Spanish documents in which every kind of thing happens, by all the real stages."""

import json
from pathlib import Path
from typing import Any

from iberlm.core.config import StageConfig
from iberlm.core.documents import batches_of, write_documents
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.curate import annotate, decontaminate, dedup, robots, select
from iberlm.curate.config import AnnotateConfig, SelectConfig, Thresholds
from iberlm.curate.decontaminate import DecontaminateConfig
from iberlm.curate.dedup.config import DedupConfig
from iberlm.curate.robots import RobotsConfig

SAMPLE = Path(__file__).parents[2] / "src/iberlm/sources/sample"
EMAIL = "marina.outeiro@correo.gal"
NOTICE = "Suscríbete a nuestro boletín y recibe cada semana las noticias del barrio en tu correo."
ENGLISH = (
    "The town council has published the rules of the competition, and everybody who lives in the valley may take part in it until the end of "
    "October, whatever their age may be."
)
HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202emalo"
"""Would clear the screen, rename the window and turn the line around."""
IDENTIFIERS = ("email", "short", "copy", "near", "reserved", "closed", "asked", "seen", "mixed", "hostile", "english")
"""Documents in which something happens; the others are plain."""


def texts(language: str) -> list[str]:
    """The texts of the embedded sample in a language."""
    path = SAMPLE / f"documents.{language}.jsonl"
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def documents() -> list[dict[str, Any]]:
    """The documents before curation."""
    galician, spanish = texts("gl"), texts("es")
    rows = [
        {"id": "email", "text": f"{galician[0]}\n\nEscriba a {EMAIL} antes do día quince de maio para pedir a súa praza.", "language": "gl"},
        {"id": "short", "text": "Un texto curto de máis.", "language": "gl"},
        {"id": "first", "text": galician[1], "language": "gl"},
        {"id": "copy", "text": galician[1], "language": "gl"},
        {"id": "near", "text": galician[1].rsplit(" ", 3)[0], "language": "gl"},
        {"id": "reserved", "text": galician[2], "language": "gl", "reserved": ["robots_meta:noai"]},
        {"id": "closed", "text": galician[3], "language": "gl", "url": "https://pechado.example/nova/1"},
        {"id": "asked", "text": galician[4], "language": "gl"},
        {"id": "seen", "text": galician[5], "language": "gl"},
        {"id": "mixed", "text": f"{galician[6]}\n\n{ENGLISH}\n\n{galician[7]}", "language": "gl"},
        {"id": "hostile", "text": galician[8], "language": "gl", "source": f"paxina {HOSTILE}"},
        {"id": "english", "text": f"{ENGLISH} {ENGLISH}", "language": "und"},
        *({"id": f"es-{number}", "text": f"{text}\n\n{NOTICE}", "language": "es"} for number, text in enumerate(spanish[:14])),
        *({"id": f"gl-{number}", "text": text, "language": "gl"} for number, text in enumerate(galician[9:25])),
    ]
    return [{"source": f"file-{number}", "card": "village_bulletin", "licence": "CC-BY-4.0", "url": None, **row} for number, row in enumerate(rows)]


def extracted(folder: Path, rows: list[dict[str, Any]], per_file: int) -> Manifest:
    """A finished extraction."""

    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        for number, start in enumerate(range(0, len(rows), per_file)):
            path = out / "documents" / f"{number:05d}.parquet"
            record.output(path, write_documents(path, batches_of(rows[start : start + per_file])))
        record.cards = {row["card"]: row["licence"] for row in rows}

    return run_stage("extract", 1, body, StageConfig(), [], folder, fingerprint=rows)


def make_run(folder: Path) -> Path:
    """Curate the documents into the folders of a run; return its folder."""
    snapshot, items, requests = folder / "robots.jsonl", folder / "items.jsonl", folder / "requests.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    snapshot.write_text(json.dumps({"host": "pechado.example", "content": "User-agent: *\nDisallow: /"}) + "\n", encoding="utf-8")
    seen = " ".join(texts("gl")[5].split()[10:40])
    items.write_text(json.dumps({"id": "item-7", "question": seen}) + "\n", encoding="utf-8")
    requests.write_text(json.dumps({"id": "asked", "requested": "2026-03-01", "reason": "copyright"}) + "\n", encoding="utf-8")
    source = extracted(folder / "extract", documents(), per_file=10)
    annotated = annotate.run(AnnotateConfig(workers=1), [source], folder / "annotate")
    inputs = [
        source,
        annotated,
        dedup.run(DedupConfig(workers=1), [annotated], folder / "dedup"),
        decontaminate.run(DecontaminateConfig(evaluation=[str(items)], workers=1), [source], folder / "decontaminate"),
        robots.run(RobotsConfig(snapshot=str(snapshot), agents=["GPTBot"], workers=1), [source], folder / "robots"),
    ]
    filters = {tag: Thresholds(min_mean_word_length=2.5) for tag in ("es", "gl")}
    select.run(SelectConfig(languages=["es", "gl"], filters=filters, removals=[str(requests)], workers=1), inputs, folder / "curate")
    return folder
