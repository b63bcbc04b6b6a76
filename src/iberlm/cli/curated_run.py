"""The stages of curation in a run folder, for the tools that look at a finished run."""

from pathlib import Path

from iberlm.core.errors import DataError
from iberlm.core.manifest import Manifest, find_manifest, read_manifest

SELECT, SELECT_FOLDER = "select", "curate"


def selection(folder: Path) -> tuple[Manifest, list[Manifest]]:
    """The manifest of `select` and those that it read. `folder`: of a run, or of the selection itself (as a sweep makes several).

    Raises `DataError` when the selection has not finished, or when what it read has been made again since.
    """
    _check_folder(folder)
    found = find_manifest(folder)
    selected = found if found and found.stage == SELECT else read_manifest(folder / SELECT_FOLDER)
    if selected.stage != SELECT:
        raise DataError(f"{selected.folder}: holds the stage '{selected.stage}', not a selection; give the folder of a run of `iberlm curate`")
    return selected, [_input(selected, entry) for entry in selected.inputs]


def annotated(folder: Path) -> list[Manifest]:
    """The manifests of extract and annotate of a run, and of quality if it was run; the selection is not needed. Raises `DataError` as `selection`."""
    _check_folder(folder)
    annotations = read_manifest(folder / "annotate")
    (extracted,) = (_input(annotations, entry) for entry in annotations.inputs)
    scores = find_manifest(folder / "quality")
    belongs = scores is not None and [entry["content"] for entry in scores.inputs] == [extracted.content_hash]
    return [extracted, annotations, *([scores] if scores and belongs else [])]


def extracted(folder: Path) -> Manifest:
    """The manifest of extract of a run. Raises `DataError` as `selection`."""
    _check_folder(folder)
    return read_manifest(folder / "extract")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give that of a run, such as runs/default")


def _input(manifest: Manifest, entry: dict[str, str]) -> Manifest:
    """The manifest of an input: beside the stage, where a run that was moved has it, or else where it lay."""
    recorded = Path(entry["folder"])
    for place in (manifest.folder.parent / recorded.name, recorded):
        found = find_manifest(place)
        if found is not None and found.content_hash == entry["content"]:
            return found
    where = read_manifest(recorded).folder  # says so when there is none
    raise DataError(f"{where}: was made again since {manifest.folder} was made from it; run `iberlm curate` again")
