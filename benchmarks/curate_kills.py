"""Does curation survive `kill -9`? Runs `iberlm curate`, kills it with its workers at random moments, runs it again, compares bytes.

    python benchmarks/curate_kills.py PATH.jsonl.zst --card CARD [--kills 50] [--seed 0] [--workers 2]

One undisturbed run is the measure. Then the same command is started and killed, again and again in one folder, until it ends by itself; that run
must have the same files with the same SHA-256, the same counts, and kept plus dropped must be what extraction gave. Another folder follows until
so many kills have landed. Printed: kills by the stage that they landed in, completed runs, and how many differed.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from iberlm.core.manifest import read_manifest

STAGES = ("extract", "annotate", "dedup", "curate")
_BEGUN = re.compile(r"(extract|annotate|dedup|select): (?:start|an interrupted)")


def command(run: Path, workers: int) -> list[str]:
    """`iberlm curate` in small shards, so that there are many moments to be killed in."""
    return [sys.executable, "-m", "iberlm", "curate", f"run_dir={run}", f"cluster.workers={workers}", "extract.shard_bytes=1", "select.file_bytes=300000"]


def outcome(run: Path) -> dict[str, object]:
    """Checksums of all outputs, and the counts; raises when a document is lost or doubled."""
    manifests = {stage: read_manifest(run / stage) for stage in STAGES}
    for manifest in manifests.values():
        manifest.check_files(checksums=True)
    extracted = sum(manifests["extract"].counts.kept.values())
    if manifests["curate"].counts.read != extracted:
        raise SystemExit(f"{run}: {extracted} documents were extracted, and {manifests['curate'].counts.read} are accounted for")
    found: dict[str, object] = {f"{stage}/{output.path}": output.sha256 for stage, manifest in manifests.items() for output in manifest.outputs}
    return found | {stage: (manifest.counts.kept, manifest.counts.dropped) for stage, manifest in manifests.items()}


def started(run: Path, workers: int, log: Path) -> "subprocess.Popen[bytes]":
    """The command in a process group of its own, its messages in `log`."""
    with log.open("wb") as stream:
        return subprocess.Popen(command(run, workers), stderr=stream, stdout=stream, start_new_session=True)


def main() -> None:
    """Kill, run again, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="documents: a JSONL file or a quoted pattern")
    parser.add_argument("--card", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="iberlm-kills-") as name:
        folder = Path(name)
        log = folder / "log"
        fetch = [f"corpus.sources.local.path='{Path(given.path).resolve()}'", f"corpus.sources.local.card={given.card}"]
        subprocess.run([sys.executable, "-m", "iberlm", "fetch", f"run_dir={folder / 'whole'}", "corpus=path", *fetch], check=True)
        begun = time.monotonic()
        if started(folder / "whole", given.workers, log).wait():
            raise SystemExit(log.read_text(errors="replace"))
        seconds = time.monotonic() - begun
        expected = outcome(folder / "whole")
        landed: Counter[str] = Counter()
        complete = different = 0
        while landed.total() < given.kills:
            run = folder / f"run{complete}"
            run.mkdir()
            (run / "fetch").symlink_to(folder / "whole" / "fetch")
            while True:
                process = started(run, given.workers, log)
                try:
                    status = process.wait(generator.uniform(0.3, seconds) if landed.total() < given.kills else None)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    stages = _BEGUN.findall(log.read_text(errors="replace"))
                    landed[stages[-1] if stages else "start-up"] += 1
                    continue
                if status:
                    raise SystemExit(f"after {landed.total()} kills the run fails:\n{log.read_text(errors='replace')}")
                break
            complete += 1
            different += outcome(run) != expected
        print(
            f"{landed.total()} kills ({', '.join(f'{stage} {number}' for stage, number in landed.most_common())}), seed {given.seed}, {given.workers} workers"
        )
        print(f"{complete} runs completed after them, {different} differ from the undisturbed one ({seconds:.1f} s, {len(expected)} files and counts)")
        raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
