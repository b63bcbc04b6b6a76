"""The language identifier against others on the same held-out texts: precision, recall, F1, confusions, speed.

    python benchmarks/langid.py --held-out FOLDER [--documents PATH.jsonl.zst ...] [--pairs PATH.jsonl.zst] [--py3langid] [--heliport]

FOLDER has one file TAG.txt a language, a sentence a line, e.g. tests/curate/everyday. `--documents`: JSON lines with the fields text and language, for
speed and for whole documents. `--pairs`: JSON lines {ca, va}, strings that exist in Catalan and in Valencian and that the model has not seen.
heliport (GPL-3) is no dependency of the project: install it in an environment of its own to compare with it.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from iberlm.core.files import sha256_file
from iberlm.curate.langid import identify, identify_documents, load_model
from iberlm.curate.langid.evaluate import read_labelled, table_of
from iberlm.curate.langid.material import read_jsonl
from iberlm.curate.langid.model import OTHER, TAGS

LONG = 60
RUNS = 5
HELIPORT = {"spa": "es", "cat": "ca", "eus": "eu", "glg": "gl", "por": "pt", "fra": "fr", "ita": "it", "oci": "oc", "ast": "ast", "arg": "an", "eng": "en"}
Identify = Callable[[Sequence[str]], list[str]]


def ours(model: str | None) -> Identify:
    """The shipped model, or one by path."""
    loaded = load_model(model)
    return lambda texts: [tag for tag, _ in identify(texts, model=loaded)]


def py3langid() -> Identify:
    """py3langid restricted to the languages it shares with ours: it knows neither Asturian nor Valencian."""
    from py3langid import langid

    model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    model.set_languages([tag for tag in TAGS if tag not in ("ast", OTHER)])
    return lambda texts: [model.classify(text)[0] for text in texts]


def heliport() -> Identify:
    """heliport's own choice among its 200 languages; those that are not ours are `other`."""
    import heliport

    model = heliport.Identifier()
    return lambda texts: [HELIPORT.get(str(model.identify(text))[:3], OTHER) for text in texts]


def one_variety(tags: Sequence[str]) -> list[str]:
    """Tags with Valencian as Catalan: what the others can tell."""
    return ["ca" if tag == "ca-valencia" else tag for tag in tags]


def compare(held_out: Path, identifiers: dict[str, Identify]) -> None:
    """Print a table for each identifier, and our own with the varieties apart."""
    labelled = read_labelled(held_out)
    texts, truth = [text for text, _ in labelled], [tag for _, tag in labelled]
    for name, identifier in identifiers.items():
        answers = identifier(texts)
        print(f"\n{name}, {held_out}, {len(texts)} texts, Catalan and Valencian together\n{table_of(one_variety(truth), one_variety(answers)).rendered()}")
        if "ca-valencia" in answers:
            print(f"\n{name}, varieties apart\n{table_of(truth, answers).rendered()}")


def strings(path: Path) -> None:
    """Print how many Catalan strings are called Valencian and how many Valencian ones are found."""
    pairs = [(row["ca"], row["va"]) for row in read_jsonl(path) if row["ca"] != row["va"] and min(len(row["ca"]), len(row["va"])) >= LONG]
    called = [[tag for tag, _ in identify(side)].count("ca-valencia") / len(pairs) for side in zip(*pairs, strict=True)]
    print(f"\n{path.name}: {len(pairs)} pairs of >= {LONG} characters: {called[0]:.3f} of the Catalan called Valencian, {called[1]:.3f} of the Valencian found")


def documents(paths: list[Path], identifiers: dict[str, Identify]) -> None:
    """Print, for the documents of each file, the share given its language, without claims and with them, and the speed."""
    for path in paths:
        rows = list(read_jsonl(path))
        text = pa.array([row["text"] for row in rows], pa.large_string())
        truth = [row["language"] for row in rows]
        megabytes = sum(len(row["text"].encode()) for row in rows) / 1e6
        for claims, wording in (([None] * len(rows), "no claims"), (truth, "claims")):
            found = identify_documents(text, claims)
            right = sum(tag == language for tag, language in zip(found.languages, truth, strict=True)) / len(rows)
            mixed = sum(len(spans) > 0 for spans in found.other_languages)
            print(f"{path.name}, {wording}: {len(rows)} documents, {right:.4f} given their language, {mixed} mixed")
        nothing: list[str | None] = [None] * len(rows)
        best = min(_seconds(identify_documents, text, nothing) for _ in range(RUNS))
        print(f"  documents with their paragraphs: {megabytes / best:.0f} MB/s, {len(rows) / best:.0f} documents/s on one core")
        texts = text.to_pylist()
        for name, identifier in identifiers.items():
            print(f"  {name}, whole texts: {megabytes / min(_seconds(identifier, texts) for _ in range(2)):.1f} MB/s")


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--documents", type=Path, nargs="*", default=[])
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--model", help="a model by path instead of the shipped one: train-langid's, lid.176, GlotLID")
    parser.add_argument("--py3langid", action="store_true")
    parser.add_argument("--heliport", action="store_true")
    given = parser.parse_args()
    identifiers = {"iberlm": ours(given.model)}
    if given.model:
        print(f"{given.model}: SHA-256 {sha256_file(Path(given.model))}")
    if given.py3langid:
        identifiers["py3langid"] = py3langid()
    if given.heliport:
        identifiers["heliport"] = heliport()
    compare(given.held_out, identifiers)
    if given.pairs:
        strings(given.pairs)
    documents(given.documents, identifiers)


if __name__ == "__main__":
    main()
