"""The peer's side of `benchmarks/curate.py`: datatrove with FineWeb2's published filters. It runs where this project is not installed.

    pip install "datatrove[processing]==0.10.1" "xxhash<4" spacy
    python benchmarks/curate_peer.py run SETTINGS.json
    python benchmarks/curate_peer.py statistics SETTINGS.json

`run`: JSON lines -> Gopher repetition, FineWeb quality and Gopher quality filters, PII, MinHash in four stages -> JSON lines; what each
filter removes is written too, with the reason, as FineWeb2 does. FineWeb2 itself looks for duplicates first; here the filters come first, as
on our side, so that both decide on the same documents; the peer has fewer documents to hash then.
`statistics`: what the filters compute of each document and do not tell, by datatrove's own functions. It is not timed.
"""

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

BANDS, ROWS, SHINGLE_WORDS = 14, 8, 5
PACKAGES = ("datatrove", "spacy", "numpy", "xxhash", "orjson")


def timed_run(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline in this process, one task after the other; seconds by step, and what became of each document."""
    started = time.perf_counter(), time.process_time()
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    language, filters, out = settings["language"], settings["filters"], Path(settings["out"])
    config = MinhashConfig(n_grams=SHINGLE_WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS, hash_config=HashConfig(precision=64, hash_fc="xxhash"))
    place = {name: str(out / name) for name in "repetition fineweb gopher passed signatures buckets clusters duplicates kept".split()}
    gopher = {name: filters[name] for name in "min_avg_word_length max_avg_word_length max_non_alpha_words_ratio stop_words".split()}
    filtering = [
        JsonlReader(settings["texts"]),
        GopherRepetitionFilter(
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            dup_line_frac=filters["dup_line_frac"],
            top_n_grams=tuple(map(tuple, filters["top_n_grams"])),
            dup_n_grams=tuple(map(tuple, filters["dup_n_grams"])),
            exclusion_writer=JsonlWriter(place["repetition"]),
            language=language,
        ),
        FineWebQualityFilter(
            exclusion_writer=JsonlWriter(place["fineweb"]),
            line_punct_thr=filters["line_punct_thr"],
            short_line_thr=999,
            char_duplicates_ratio=0.1,
            new_line_ratio=filters["new_line_ratio"],
            language=language,
        ),
        GopherQualityFilter(**gopher, min_stop_words=2, exclusion_writer=JsonlWriter(place["gopher"]), language=language),
        PIIFormatter(),
        JsonlWriter(place["passed"]),
    ]
    passed = JsonlReader(place["passed"])
    stages: list[tuple[str, int, list[Any]]] = [
        ("filters, PII", 1, filtering),
        ("MinHash 1 signatures", 1, [passed, MinhashDedupSignature(place["signatures"], config=config, language=language)]),
        ("MinHash 2 buckets", BANDS, [MinhashDedupBuckets(place["signatures"], place["buckets"], config=config)]),
        ("MinHash 3 clusters", 1, [MinhashDedupCluster(place["buckets"], place["clusters"], config=config, save_cluster_id=True)]),
        (
            "MinHash 4 filter",
            1,
            [passed, MinhashDedupFilter(place["clusters"], JsonlWriter(place["duplicates"]), load_cluster_ids=True), JsonlWriter(place["kept"])],
        ),
    ]
    steps = {"start-up": (time.perf_counter() - started[0], time.process_time() - started[1])}
    for name, tasks, pipeline in stages:
        wall, cpu = time.perf_counter(), time.process_time()
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(out / "logs" / name.replace(" ", "_"))).run()
        steps[name] = (time.perf_counter() - wall, time.process_time() - cpu)
    versions = f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return {"steps": steps, "versions": versions, "documents": decisions(out)}


def decisions(out: Path) -> dict[str, list[Any]]:
    """By the document's identifier: why it was removed ('' where it was not), and its cluster of near duplicates (-1: alone)."""
    import gzip

    found: dict[str, list[Any]] = {}
    for folder in ("repetition", "fineweb", "gopher", "duplicates", "kept"):
        for path in sorted((out / folder).glob("*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                for line in stream:
                    record = json.loads(line)
                    metadata = record.get("metadata", {})
                    reason = {"duplicates": "near_duplicate", "kept": ""}.get(folder, metadata.get("filter_reason", ""))
                    found[record["id"]] = [reason, metadata.get("minhash_cluster_id", -1)]
    return found


def statistics(settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What FineWeb2's filters compare, of each document in the folder, under the names of our columns."""
    from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_duplicates, find_top_duplicate, get_n_grams
    from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION, split_into_words

    stop_words, endings = set(settings["filters"]["stop_words"]), tuple(TERMINAL_PUNCTUATION)
    found = {}
    for path in sorted(Path(settings["texts"]).glob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            record = json.loads(line)
            text = record["text"]
            tokens = split_into_words(text, settings["language"])
            words = [token for token in tokens if any(character not in PUNCTUATION_SET for character in token)]
            runs, lines = text.replace("\n\n", "\n"), [entry for entry in text.split("\n") if entry.strip()]
            while "\n\n" in runs:
                runs = runs.replace("\n\n", "\n")
            of_runs, physical = runs.split("\n"), text.splitlines()
            count, characters = max(1, len(tokens)), max(1, len(text))
            values: dict[str, float] = {
                "tokens": len(tokens),
                "words": len(words),
                "mean_word_length": sum(map(len, words)) / max(1, len(words)),
                "alpha_word_ratio": sum(any(character.isalpha() for character in token) for token in tokens) / count,
                "stop_words": len(stop_words.intersection(tokens)),
                "hash_ratio": text.count("#") / count,
                "ellipsis_ratio": (text.count("...") + text.count("…")) / count,
                "bullet_line_ratio": sum(entry.lstrip().startswith(("•", "-")) for entry in physical) / max(1, len(physical)),
                "ellipsis_line_ratio": sum(entry.rstrip().endswith(("...", "…")) for entry in physical) / max(1, len(physical)),
                "punctuated_line_ratio": sum(entry.endswith(endings) for entry in lines) / max(1, len(lines)),
                "new_line_ratio": text.count("\n") / count,
                "duplicate_line_ratio": find_duplicates(of_runs)[0] / len(of_runs),
                "duplicate_full_line_character_ratio": find_duplicates(lines)[1] / max(1, len(text.replace("\n", ""))),
            }
            for n in (2, 3, 4):
                grams = get_n_grams(tokens, n)
                values[f"top_{n}_gram_ratio"] = find_top_duplicate(grams) / characters if grams else 0.0
            for n in range(5, 11):
                values[f"duplicate_{n}_gram_ratio"] = find_all_duplicate(tokens, n) / characters
            found[record["id"]] = values
    return found


def main() -> None:
    """Read the command line."""
    command, path = sys.argv[1], Path(sys.argv[2])
    settings = json.loads(path.read_text())
    result = timed_run(settings) if command == "run" else statistics(settings)
    Path(settings["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
