"""One run of ours for `benchmarks/curate.py`, in a process of its own: the verbs `fetch` and `curate`, and what their stages took.

    python benchmarks/curate_ours.py SETTINGS.json

With `same_work`, the peer's work and no more is asked of it: languages are not identified but believed, FineWeb2's stop words are counted,
only its rules apply, and nothing is cut. Everything else stays: extraction with its normalisation, all statistics, all kinds of
personal data, duplicates by URL, text, MinHash and paragraph.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

STARTED = time.perf_counter(), time.process_time()
PACKAGES = ("iberlm", "numpy", "numba", "pyarrow", "zstandard")
CARD = """\
# Stands in for the card of the measured text: nothing is released.
schema_version: 1
name: measured_text
title: Text of a measurement
description: "The text that a benchmark was given by path. It is read where it lies, measured, and neither copied into a release nor published."
version: 1.0.0
languages:
  - {tag: und, proportion: 1.0, basis: documents}
registers: [mixed]
modality: text
source_type: private_third_party
licence:
  spdx: CC0-1.0
  url: https://creativecommons.org/publicdomain/zero/1.0/
  evidence: {kind: file, ref: "This card: it covers a measurement only", checked_on: 2026-11-22}
  share_alike: false
tdm: {status: not_applicable}
personal_data: {present: incidental, special_categories: false, legal_basis: legitimate_interest, basis_ref: "This card: nothing is kept"}
pii: {status: redacted, detectors: [iberlm]}
dates: {collected_from: 2026-11-22, collected_to: 2026-11-22}
source: {kind: repository, paths: [benchmarks/curate.py]}
splits:
  - {name: train, files: [benchmarks/curate.py], documents: 1}
quality: {known_issues: ["Unknown text, for measuring only."], human_reviewed: 0.0}
permitted_uses: [pretrain]
maintainer: {name: IberLM contributors, email: maintainers@iberlm.example}
takedown: {contact: takedown@iberlm.example, sla_days: 14}
"""


class Clock:
    """Seconds that calls of named functions took, wall and CPU."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls added up under `name`."""
        spent = self.spent.setdefault(name, [0.0, 0.0])

        def call(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[0] += time.perf_counter() - wall
                spent[1] += time.process_time() - cpu

        return call


def believe(text: Any, claims: Any, **_: Any) -> Any:
    """In place of the identification: what the source says, for certain."""
    import numpy as np
    import pyarrow as pa

    from iberlm.curate.annotate import annotation_schema
    from iberlm.curate.langid import Identification

    kind = annotation_schema(1).field("other_languages").type
    return Identification(list(claims), np.ones(len(claims), np.float32), [None] * len(claims), pa.array([[]] * len(claims), kind))


def warm_up() -> None:
    """Load the compiled loops: a constant, counted as start-up. (The first run of all compiles them, which takes half a minute.)"""
    import numpy as np
    import pyarrow as pa

    from iberlm.curate import pii
    from iberlm.curate.measure.kernel import measure

    text = pa.array(["Escriba a ana@example.org o llame al 600 123 456."], pa.large_string())
    measure(text, np.zeros(1, np.int8), bands=14, rows=8)
    pii.find_batch(text)


class Peaks:
    """The most memory that the process held while each stage ran, in bytes."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, the process's high-water mark of memory taken during its call."""

        def call(*arguments: Any, **named: Any) -> Any:
            Path("/proc/self/clear_refs").write_text("5")  # sets the mark back to what is held now
            result = function(*arguments, **named)
            self.of[name] = high_water()
            return result

        return call


def prepare(clock: Clock, peaks: Peaks, same_work: bool) -> None:
    """Watch the stages and time the parts of `annotate`; with `same_work`, leave the identification out and count FineWeb2's stop words."""
    from iberlm.curate import annotate, dedup, pii, select
    from iberlm.curate.measure.words import FINEWEB2_STOP_WORDS
    from iberlm.extract import extract

    stages: dict[str, Any] = {"extract": extract, "annotate": annotate, "dedup": dedup, "select": select}
    for name, module in stages.items():
        module.run = peaks.watched(name, module.run)
    hooks: Any = annotate
    measure = partial(hooks.measure, stop_words=FINEWEB2_STOP_WORDS) if same_work else hooks.measure
    hooks.measure = clock.timed("annotate: statistics, MinHash", measure)
    hooks.url_hashes = clock.timed("annotate: URLs", hooks.url_hashes)
    pii.find_batch = clock.timed("annotate: personal data", pii.find_batch)
    if same_work:
        hooks.identify_documents, hooks.load_model = believe, lambda _: None
    else:
        hooks.identify_documents = clock.timed("annotate: language", hooks.identify_documents)


def commands(settings: dict[str, Any]) -> dict[str, list[str]]:
    """The overrides of the two verbs, as a user would write them."""
    folder = settings["folder"]
    fetch = [f"run_dir={folder}", "corpus=path", f"corpus.sources.local.path={settings['path']}", "corpus.sources.local.card=measured_text"]
    curate = [f"run_dir={folder}", f"filters={settings['filters']}", "cluster.workers=1", f"select.languages=[{','.join(settings['languages'])}]"]
    if settings["same_work"]:
        curate += ["select.cut_boilerplate=false", "select.cut_other_languages=false"]
        curate += [f"filters.{tag}.min_language_score=0" for tag in settings["languages"]]
    return {"fetch": fetch, "curate": [*curate, *settings["overrides"]]}


def high_water() -> int:
    """The most memory that this process held since it began or `Peaks` set the mark back, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def main() -> None:
    """Run, and write what was measured to the file that the settings name."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    clock, peaks = Clock(), Peaks()
    from iberlm.cli.hydra_app import hydra_main
    from iberlm.cli.verbs import VERBS
    from iberlm.core.manifest import read_manifest

    cards = Path(settings["folder"]) / "data_cards"
    cards.mkdir(parents=True)
    (cards / "measured_text.yaml").write_text(CARD)
    os.environ["IBERLM_CARDS"] = str(cards)
    warm_up()
    prepare(clock, peaks, settings["same_work"])
    for verb, overrides in commands(settings).items():
        hydra_main(VERBS[verb], overrides)
    whole = time.perf_counter() - STARTED[0], time.process_time() - STARTED[1]
    fetch, *stages = [read_manifest(Path(settings["folder"]) / name) for name in ("fetch", "extract", "annotate", "dedup", "curate")]
    steps = {manifest.stage: (manifest.wall_seconds, manifest.cpu_seconds) for manifest in (fetch, *stages)}
    steps["start-up"] = whole[0] - sum(wall for wall, _ in steps.values()), whole[1] - sum(cpu for _, cpu in steps.values())
    result = {
        "steps": steps,
        "parts": clock.spent,
        "peak_bytes": peaks.of,
        "counts": {manifest.stage: {"kept": manifest.counts.kept, "dropped": manifest.counts.dropped} for manifest in stages},
        "phases": stages[2].metrics.get("phase_seconds", {}),
        "versions": f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
    Path(settings["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
