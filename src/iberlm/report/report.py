"""The stage `report`: manifests and the files beside them -> `report.html`, one file that needs nothing else."""

from dataclasses import asdict
from pathlib import Path

from iberlm.cards import find_card
from iberlm.core.errors import IberlmError
from iberlm.core.files import sha256_file, write_text
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.report.config import ReportConfig
from iberlm.report.run_folder import role_of

STAGE = "report"
VERSION = 2
REPORT = "report.html"


def run(config: ReportConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Write `report.html` from the manifests that were found, in any order; what is missing is a sentence in its section.

    It is made again when a stage's settings, counts, metrics or files changed, or a data card; a stage's times, this
    machine and the versions of packages are shown, but decide nothing. Raises what `run_stage` raises.
    """
    names = sorted({name for manifest in inputs for name in manifest.cards})
    stages = [[role_of(config, manifest), manifest.key, asdict(manifest.counts), manifest.metrics] for manifest in inputs]
    fingerprint = {"stages": stages, "cards": {name: _card_hash(name) for name in names}, "curves": _curves(config)}
    return run_stage(STAGE, VERSION, _body, config, inputs, out, fingerprint=fingerprint, whole_inputs=False)


def _curves(config: ReportConfig) -> str:
    """Stands for what was evaluated while the model trained; the charts' library is imported only where something was."""
    folder = Path(config.run_dir)
    if not any((folder / name).is_dir() for name in ("watch", "store")):
        return ""
    from iberlm.report.curves_section import fingerprint

    return fingerprint(folder)


def _card_hash(name: str) -> str:
    try:
        return sha256_file(find_card(name))
    except (IberlmError, OSError):
        return ""


def _body(config: ReportConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    from iberlm.report.page import build, render
    from iberlm.report.run_folder import RunFolder

    path = out / REPORT
    write_text(path, render(build(RunFolder.of(config, inputs))))
    record.output(path)
