"""Curation: speed beside datatrove's, agreement with it, each stage end to end, and memory as the input grows.

    python benchmarks/curate.py TEXT.jsonl[.gz|.zst] ... [--peer-python PATH] [--runs 3] [--megabytes 0] [--folder FOLDER]
    python benchmarks/curate.py TEXT.jsonl[.gz|.zst] ... --memory 0.1 0.5 2

TEXT has one record a line with `text` and `language`. Everything runs on one core, a process a run, input and output included; MB are 10^6
bytes of text (UTF-8). The peer wants an environment of its own, whose Python is given; `curate_peer.py` tells how to make it, and what it
runs. It has tokenizers without downloads for es, ca and eu; for Galician it wants a neural model from a hub, so gl is not compared.

1. Speed: the same documents of one language, FineWeb2's published filters, personal data and MinHash. Ours once with this work alone, once
   with languages identified and all that `iberlm curate` does by default. CPU seconds count; those of the wall clock stand beside them.
2. Agreement: what both keep under the same limits, before and after duplicates, and which rules decide where they differ.
3. End to end: all records, from JSON lines and from Parquet, by stage.
4. Memory (with --memory, instead of the others): input of so many GB of text, made by copies with every fifth word changed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from curate_agreement import causes, counts, read_ours, representatives, table
from curate_inputs import Input, grown, of_language, together
from dedup import Peak, machine

HERE = Path(__file__).parent
PEER_LANGUAGES = {"es": "spa_Latn", "ca": "cat_Latn", "eu": "eus_Latn"}
STATISTICS_DOCUMENTS = 400
"""So many documents on which both agree are measured by the peer too, beside those on which they differ, to compare counts of tokens."""
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


class Run:
    """A finished process: what it says of itself, and the time and memory it took as seen from outside."""

    def __init__(self, python: str, program: str, *arguments: str, settings: dict[str, Any]) -> None:
        folder = Path(settings["scratch"])
        file, settings["result"] = folder / "settings.json", str(folder / "result.json")
        file.write_text(json.dumps(settings))
        command = [python, str(HERE / program), *arguments, str(file)]
        started, before = time.perf_counter(), os.times()
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | THREADS) as process,
            Peak(process.pid) as peak,
        ):
            code = process.wait()
        self.wall, after = time.perf_counter() - started, os.times()
        if code != 0:
            raise SystemExit(f"{' '.join(command)} ended with {code}:\n{(folder / 'log').read_text()[-3000:]}")
        self.cpu = after.children_user + after.children_system - before.children_user - before.children_system
        self.together = peak.together
        self.said: dict[str, Any] = json.loads(Path(settings["result"]).read_text())

    def seconds(self, kind: int, *names: str) -> float:
        """Wall (0) or CPU (1) seconds of these steps; of all but the start-up without names."""
        steps: dict[str, list[float]] = self.said["steps"]
        return sum(spent[kind] for name, spent in steps.items() if (name in names if names else name != "start-up"))


def limits_of(language: str) -> Any:
    """FineWeb2's published limits of a language, from the recipe."""
    from omegaconf import OmegaConf

    from iberlm.core.resources import resource_dir

    return OmegaConf.to_container(OmegaConf.load(resource_dir("recipes") / "filters" / "fineweb2.yaml"))[language]  # type: ignore[index, call-overload]


def peer_filters(language: str) -> dict[str, Any]:
    """The same limits as datatrove's filters take them, and FineWeb2's stop words."""
    from iberlm.curate.measure.words import FINEWEB2_STOP_WORDS

    limits = limits_of(language)
    return {
        "dup_line_frac": limits["max_duplicate_line_ratio"],
        "top_n_grams": [(n, limits[f"max_top_{n}_gram_ratio"]) for n in (2, 3, 4)],
        "dup_n_grams": [(n, limits[f"max_duplicate_{n}_gram_ratio"]) for n in range(5, 11)],
        "line_punct_thr": limits["min_punctuated_line_ratio"],
        "new_line_ratio": limits["max_new_line_ratio"],
        "min_avg_word_length": limits["min_mean_word_length"],
        "max_avg_word_length": limits["max_mean_word_length"],
        "max_non_alpha_words_ratio": limits["min_alpha_word_ratio"],
        "stop_words": list(FINEWEB2_STOP_WORDS[language]),
    }


class Bench:
    """The settings of the command, and runs of both sides in a working folder."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder

    def fresh(self, name: str) -> Path:
        """An empty folder for a run; what an earlier one left there is deleted."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()
        return self.folder / name

    def ours(self, given: Input, *, same_work: bool, filters: str, languages: list[str]) -> Run:
        """A run of ours; its folder stays until the next."""
        place = self.fresh("ours")
        settings = {"scratch": str(place), "folder": str(place / "run"), "path": str(given.path), "overrides": self.arguments.override}
        return Run(sys.executable, "curate_ours.py", settings=settings | {"same_work": same_work, "filters": filters, "languages": languages})

    def peer(self, given: Input, language: str) -> Run:
        """A run of the peer."""
        place = self.fresh("peer")
        settings = {"scratch": str(place), "texts": str(given.path.parent), "out": str(place / "out"), "language": PEER_LANGUAGES[language]}
        return Run(self.arguments.peer_python, "curate_peer.py", "run", settings=settings | {"filters": peer_filters(language)})

    def statistics(self, given: Input, language: str, identifiers: set[str]) -> dict[str, dict[str, float]]:
        """What the peer measures of these documents."""
        place = self.fresh("statistics")
        (place / "texts").mkdir()
        lines = [line for line in given.path.open(encoding="utf-8") if json.loads(line)["id"] in identifiers]
        (place / "texts" / "0.jsonl").write_text("".join(lines), encoding="utf-8")
        settings = {"scratch": str(place), "texts": str(place / "texts"), "language": PEER_LANGUAGES[language], "filters": peer_filters(language)}
        return Run(self.arguments.peer_python, "curate_peer.py", "statistics", settings=settings).said


def compile_loops(bench: Bench) -> None:
    """A first run that is not counted: on a machine where ours never ran it compiles its loops, which takes a minute."""
    from iberlm.sources.sample import sample_files

    given, _ = together(sample_files(), bench.fresh("input") / "first")
    bench.ours(given, same_work=False, filters="default", languages=["es"])


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def speed(bench: Bench, language: str) -> None:
    """Both sides in turn, `--runs` times; then what they agree on."""
    given = of_language(bench.arguments.text, language, bench.fresh("input") / language, bench.arguments.megabytes)
    if not given.documents:
        print(f"\n{language}: no documents")
        return
    sides: dict[str, list[Run]] = {"datatrove": [], "ours, the same work": [], "ours, everything": []}
    agreement: list[str] = []
    for _ in range(bench.arguments.runs):
        if bench.arguments.peer_python:
            sides["datatrove"].append(bench.peer(given, language))
        sides["ours, the same work"].append(bench.ours(given, same_work=True, filters="fineweb2", languages=[language]))
        if bench.arguments.peer_python and not agreement:
            agreement = agree(bench, given, language, sides["datatrove"][0])
        sides["ours, everything"].append(bench.ours(given, same_work=False, filters="default", languages=[language]))
    print(f"\n{language}: {given.megabytes:.1f} MB, {given.documents:,} documents; medians of {bench.arguments.runs}")
    print(f"{'':<22} {'CPU s':>8} {'wall s':>8} {'start-up':>9} {'MB/CPU s':>9} {'MB/s':>8} {'x peer (CPU)':>13} {'x, start-up too':>16}")
    for name, runs in sides.items():
        if not runs:
            print(f"{name:<22} not run: give --peer-python")
            continue
        cpu, wall = (median([run.seconds(kind) for run in runs]) for kind in (1, 0))
        start_up = median([run.seconds(1, "start-up") for run in runs])
        row = f"{name:<22} {cpu:>8.2f} {wall:>8.2f} {start_up:>9.2f} {given.megabytes / cpu:>9.3g} {given.megabytes / wall:>8.3g}"
        if name != "datatrove" and sides["datatrove"]:
            inner = median([peer.seconds(1) / run.seconds(1) for peer, run in zip(sides["datatrove"], runs, strict=True)])
            outer = median([peer.cpu / run.cpu for peer, run in zip(sides["datatrove"], runs, strict=True)])
            row += f" {inner:>13.1f} {outer:>16.1f}"
        print(row)
    for name, runs in sides.items():
        if runs:
            print(f"  {name}, CPU s by step: {by_step(runs)}")
    print("\n".join(agreement), flush=True)


def by_step(runs: list[Run]) -> str:
    """Median CPU seconds of each step."""
    parts = [f"{name} {median([run.said['steps'][name][1] for run in runs]):.2f}" for name in runs[0].said["steps"]]
    return ", ".join(parts)


def agree(bench: Bench, given: Input, language: str, peer_run: Run) -> list[str]:
    """Lines on what both sides keep; reads what the last run of ours left."""
    peer, mine = peer_run.said["documents"], read_ours(bench.folder / "ours" / "run")
    if len(peer) != given.documents or set(peer) - set(mine.reasons):
        raise SystemExit(f"{language}: {given.documents} documents were given; the peer tells of {len(peer)}, ours of {len(mine.reasons)}")
    rows, differing = table(mine, peer)
    sample = [str(number) for number in range(0, given.documents, max(1, given.documents // STATISTICS_DOCUMENTS))]
    measured = bench.statistics(given, language, {*differing, *sample})
    lines = [f"\n{language}: documents kept, FineWeb2's limits and stop words on both sides"]
    lines += [f"{'':<24} {'by both':>7} {'ours only':>10} {'peer only':>11} {'neither':>8} {'agreement':>10}", *rows]
    lines += [representatives(mine, peer), counts(mine, {identifier: measured[identifier] for identifier in sample if identifier in measured})]
    if differing:
        lines += ["where the filters differ (medians of ours against the peer's):", *causes(mine, peer, differing, measured, limits_of(language))]
    return lines


def end_to_end(bench: Bench) -> None:
    """Everything `iberlm curate` does by default, from JSON lines and from Parquet, by stage."""
    from iberlm.core.languages import LANGUAGES

    given = dict(zip(("JSON lines", "Parquet"), together(bench.arguments.text, bench.fresh("input") / "all"), strict=True))
    one = given["Parquet"]
    languages = [tag for tag in LANGUAGES if tag in one.languages]
    print(f"\nend to end, default filters: {one.megabytes:.1f} MB, {one.documents:,} documents; medians of {bench.arguments.runs}")
    runs: dict[str, list[Run]] = {}
    for name, entry in given.items():
        runs[name] = [bench.ours(entry, same_work=False, filters="default", languages=languages) for _ in range(bench.arguments.runs)]
    stages = [name for name in runs["Parquet"][0].said["steps"] if name not in ("start-up", "fetch")]
    print(f"{'':<32}" + "".join(f"{name + ': CPU s':>20} {'MB/CPU s':>9} {'MB/s':>7}" for name in runs))
    for row in ("start-up", "fetch", *stages, "all stages", *runs["Parquet"][0].said["parts"]):
        line = f"{row:<32}"
        for name in runs:
            if row in runs[name][0].said["parts"]:
                wall, cpu = (median([run.said["parts"][row][kind] for run in runs[name]]) for kind in (0, 1))
            else:
                wall, cpu = (median([run.seconds(kind, *(stages if row == "all stages" else [row])) for run in runs[name]]) for kind in (0, 1))
            line += f"{cpu:>20.2f} {one.megabytes / max(cpu, 1e-3):>9.3g} {one.megabytes / max(wall, 1e-3):>7.3g}"
        print(line)
    kept = runs["Parquet"][0].said["counts"]["select"]
    print(f"kept {sum(kept['kept'].values()):,} documents; dropped " + ", ".join(f"{reason} {count:,}" for reason, count in dropped(kept)), flush=True)


def dropped(found: dict[str, Any]) -> list[tuple[str, int]]:
    """Documents by reason, the commonest first."""
    totals: dict[str, int] = {}
    for reasons in found["dropped"].values():
        for reason, count in reasons.items():
            totals[reason] = totals.get(reason, 0) + count
    return sorted(totals.items(), key=lambda entry: -entry[1])


def memory(bench: Bench) -> None:
    """Peaks by size of the input."""
    from iberlm.core.languages import LANGUAGES

    print(f"\n{'text GB':>8} {'documents':>10} {'CPU s':>8} {'MB/CPU s':>9} {'kept':>10}  peak MB of the process by stage; of all processes together")
    for gigabytes in bench.arguments.memory:
        given = grown(bench.arguments.text, bench.fresh("input") / "grown", int(gigabytes * 1e9))
        run = bench.ours(given, same_work=False, filters="default", languages=[tag for tag in LANGUAGES if tag in given.languages])
        peaks = ", ".join(f"{name} {held / 1e6:.0f}" for name, held in run.said["peak_bytes"].items())
        cpu, kept = run.seconds(1), sum(run.said["counts"]["select"]["kept"].values())
        row = f"{given.megabytes / 1e3:>8.2f} {given.documents:>10,} {cpu:>8.1f} {given.megabytes / cpu:>9.3g} {kept:>10,}"
        print(f"{row}  {peaks}; {run.together / 1e6:.0f}   (CPU s: {by_step([run])})", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+", help="JSON lines with `text` and `language`")
    parser.add_argument("--peer-python", default="", help="Python of an environment with datatrove; without it the peer is left out")
    parser.add_argument("--languages", nargs="+", default=list(PEER_LANGUAGES), choices=list(PEER_LANGUAGES), help="compared with the peer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=0.0, help="text a language that is compared with the peer, which takes 5 s a MB; 0: all")
    parser.add_argument("--parts", nargs="+", default=["peer", "stages"], choices=["peer", "stages"])
    parser.add_argument("--memory", type=float, nargs="+", default=[], help="sizes in GB; needs three times as much disk")
    parser.add_argument("--override", nargs="+", default=[], help="settings for `iberlm curate` of ours, e.g. annotate.personal_data=false")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core that everything runs on")
    parser.add_argument("--folder", type=Path, help="where to work; the system's temporary folder otherwise")
    arguments = parser.parse_args()
    told = machine("iberlm", "numpy", "numba", "pyarrow", "zstandard")
    os.sched_setaffinity(0, {arguments.core})  # inherited by both sides
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        bench = Bench(arguments, Path(folder))
        print(f"{told}; everything on core {arguments.core}")
        print("load of the machine before: " + ", ".join(f"{load:.1f}" for load in os.getloadavg()))
        compile_loops(bench)
        if arguments.memory:
            memory(bench)
            return
        if "peer" in arguments.parts:
            if arguments.peer_python:
                code = "from importlib.metadata import version as v; print(', '.join(p + ' ' + v(p) for p in ('datatrove', 'spacy', 'numpy', 'xxhash')))"
                print("peer: " + subprocess.run([arguments.peer_python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
            for language in arguments.languages:
                speed(bench, language)
        if "stages" in arguments.parts:
            end_to_end(bench)


if __name__ == "__main__":
    main()
