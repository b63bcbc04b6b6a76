"""The tools as a user types them: what they print, what they write, and one line for every mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from iberlm.cli.completion import candidates
from iberlm.cli.curated_run import annotated, selection
from iberlm.cli.main import TOOLS
from iberlm.core.errors import DataError
from iberlm.core.manifest import read_manifest
from tests.curate.small_run import EMAIL, SAMPLE, make_run


def iberlm(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run([sys.executable, "-m", "iberlm", *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=1800, env=environment)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a trusted sample: 120 Galician texts, each of three of the embedded ones."""
    folder = tmp_path_factory.mktemp("runs") / "trusted"
    texts = [json.loads(line)["text"] for line in (SAMPLE / "documents.gl.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{"text": "\n".join(texts[(number * step) % 40] for step in (1, 3, 7)), "language": "gl"} for number in range(1, 121)]
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    from iberlm.curate import annotate
    from iberlm.curate.config import AnnotateConfig
    from iberlm.extract import extract
    from iberlm.extract.config import ExtractConfig
    from iberlm.sources import fetch
    from iberlm.sources.config import CorpusConfig, FetchConfig, SourceConfig

    source = SourceConfig(kind="path", card="iberlm_sample", path=str(folder / "raw"))
    fetched = fetch.run(FetchConfig(corpus=CorpusConfig(name="trusted", sources={"texts": source})), [], folder / "fetch")
    extracted = extract.run(ExtractConfig(workers=1), [fetched], folder / "extract")
    annotate.run(AnnotateConfig(workers=1), [extracted], folder / "annotate")
    return folder


def test_inspect_prints_documents_with_their_reasons(run: Path) -> None:
    ended = iberlm("inspect", str(run), "--reason", "too_short")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("short  dropped: too_short\n")
    assert "beyond its limits: words 5 (at least 50)" in ended.stdout
    assert ended.stderr == ""
    drawn = iberlm("inspect", str(run), "--language", "es", "--number", "3", "--seed", "5", "--characters", "40").stdout
    assert drawn.count("  kept\n") == 3
    assert drawn == iberlm("inspect", str(run), "--language", "es", "--number", "3", "--seed", "5", "--characters", "40").stdout


def test_inspect_shows_personal_data_only_when_it_is_told_to(run: Path) -> None:
    hidden, shown = (iberlm("inspect", str(run), "--id", "email", "--characters", "0", *more).stdout for more in ((), ("--personal-data",)))
    assert "<EMAIL>" in hidden
    assert EMAIL not in hidden
    assert EMAIL in shown


def test_inspect_finds_the_stages_of_a_run_that_was_moved_and_of_a_sweep(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    shutil.move(moved / "curate", moved / "curate_sweep" / "filters.es.min_words=50")
    selected, inputs = selection(moved / "curate_sweep" / "filters.es.min_words=50")
    assert selected.folder == moved / "curate_sweep" / "filters.es.min_words=50"
    assert {manifest.folder for manifest in inputs} == {run / name for name in ("extract", "annotate", "dedup", "decontaminate", "robots")}
    shutil.move(moved / "curate_sweep" / "filters.es.min_words=50", moved / "curate")
    assert {manifest.folder.parent for manifest in selection(moved)[1]} == {moved}


def test_a_selection_whose_input_was_made_again_is_refused(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    for name in ("curate", "annotate"):  # as if the run had been made here
        manifest = read_manifest(moved / name)
        for entry in manifest.inputs:
            entry["folder"] = str(moved / Path(entry["folder"]).name)
        manifest.write()
    changed = read_manifest(moved / "extract")
    changed.cards["another"] = "CC0-1.0"
    changed.write()
    for find in (selection, annotated):
        with pytest.raises(DataError, match="extract: was made again since"):
            find(moved)


def test_calibrate_writes_a_recipe_and_a_page(trusted: Path, tmp_path: Path) -> None:
    ended = iberlm("calibrate", str(trusted), "--out", str(tmp_path / "mine"))
    assert ended.returncode == 0, ended.stderr
    assert [line.split() for line in ended.stdout.splitlines()[:2]] == [["gl"], ["trusted", "documents", "120"]]
    assert ended.stdout.splitlines()[-1].endswith(f"iberlm curate --config-dir {tmp_path / 'mine'} filters=calibrated")
    recipe = yaml.safe_load((tmp_path / "mine/filters/calibrated.yaml").read_text(encoding="utf-8"))
    assert recipe["gl"]["max_new_line_ratio"] >= 0.3
    assert recipe["eu"] == {}
    assert "iberlm_sample" in (tmp_path / "mine/calibration.html").read_text(encoding="utf-8")
    assert iberlm("calibrate", str(trusted), "--language", "gl").returncode == 0
    assert (trusted / "calibration/filters/calibrated.yaml").read_bytes() == (tmp_path / "mine/filters/calibrated.yaml").read_bytes()


def test_the_recipe_of_a_calibration_is_a_choice_of_the_verb(trusted: Path, tmp_path: Path) -> None:
    assert iberlm("calibrate", str(trusted), "--out", str(tmp_path)).returncode == 0
    ended = iberlm("curate", "--config-dir", str(tmp_path), "filters=calibrated", "--cfg", "job")
    assert ended.returncode == 0, ended.stderr
    recipe = yaml.safe_load((tmp_path / "filters/calibrated.yaml").read_text(encoding="utf-8"))
    composed = yaml.safe_load(ended.stdout)["filters"]
    assert {name: composed["gl"][name] for name in recipe["gl"]} == recipe["gl"]


def test_locate_writes_requests_that_select_takes(run: Path, tmp_path: Path) -> None:
    document = pq.read_table(next((run / "extract/documents").glob("*.parquet"))).slice(0, 1).to_pylist()[0]
    words = " ".join(document["text"].split()[:12])
    (tmp_path / "passages.jsonl").write_text(json.dumps({"text": words, "requested": "2026-02-03", "reason": "privacy"}), encoding="utf-8")
    ended = iberlm("locate", str(run), str(tmp_path / "passages.jsonl"), "--out", str(tmp_path / "found"))
    assert ended.returncode == 0, ended.stderr
    assert "passages found: 1 of 1, in " in ended.stdout
    assert f"select.removals=[{tmp_path}/found/removals.jsonl]" in ended.stdout
    requests = [json.loads(line) for line in (tmp_path / "found/removals.jsonl").read_text(encoding="utf-8").splitlines()]
    assert document["id"] in {request["id"] for request in requests}
    assert words not in (tmp_path / "found/removals.jsonl").read_text(encoding="utf-8")


def test_train_quality_trains_on_two_sets(tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for tag in ("es", "gl", "ca") for line in (SAMPLE / f"documents.{tag}.jsonl").read_text(encoding="utf-8").splitlines()]
    pieces = [text[start : start + 200].replace("\n", " ") for text in texts for start in range(0, 1000, 200)]
    (tmp_path / "good.txt").write_text("\n".join(pieces), encoding="utf-8")
    (tmp_path / "bad.txt").write_text("\n".join(" ".join(sorted(piece.split(), key=len)) for piece in pieces), encoding="utf-8")
    good, bad = str(tmp_path / "good.txt"), str(tmp_path / "bad.txt")
    ended = iberlm("train-quality", str(tmp_path / "model"), "--positive", good, "--negative", bad, "--bits", "14", "--epochs", "2")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("| held out |")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} >= {".json", ".md"}
    ended = iberlm("train-quality", str(tmp_path / "other"), "--positive", good, "--negative", str(tmp_path / "nothing.txt"))
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1


def test_train_langid_wants_a_recipe(tmp_path: Path) -> None:
    ended = iberlm("train-langid", str(tmp_path / "none.yaml"), str(tmp_path / "out"))
    assert ended.returncode == 2
    assert "none.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["inspect", "RUN", "--language", "galego"], 2, "unknown language 'galego': choose among es, ca, ca-valencia, eu, gl, und"),
        (["inspect", "RUN", "--language", "galician"], 2, "unknown language 'galician'; did you mean 'gl'? Choose among"),
        (["inspect", "RUN", "--language", "val"], 2, "for Valencian write 'ca-valencia'"),
        (["inspect", "RUN", "--language", "eu"], 2, "no document has the language 'eu'"),
        (["inspect", "RUN", "--reason", "to_short"], 2, "did you mean 'too_short'?"),
        (["inspect", "RUN", "--id", "nobody"], 4, "no document has the identifier 'nobody'"),
        (["inspect", "RUN", "--number", "0"], 2, "--number"),
        (["inspect", "RUN", "--langauge", "gl"], 2, "inspect: No such option: --langauge"),
        (["inspect"], 2, "inspect: Missing argument 'RUN_DIR'"),
        (["inspect", "nowhere"], 4, "nowhere: there is no such folder"),
        (["inspect", "RUN/extract"], 4, "extract/curate: no manifest.json"),
        (["calibrate", "nowhere"], 4, "nowhere: there is no such folder"),
        (["calibrate", "RUN/extract"], 4, "extract/annotate: no manifest.json"),
        (["calibrate", "RUN"], 4, "no language has 100 trusted documents"),
        (["calibrate", "RUN", "--language", "gl"], 4, "Galician has "),
        (["calibrate", "RUN", "--language", "pt"], 2, "unknown language 'pt'"),
        (["calibrate", "RUN", "--share", "1"], 2, "share: 1 is out of range"),
        (["calibrate", "RUN", "--share", "a lot"], 2, "--share"),
        (["cards", "validate", "--nonsense"], 2, "--nonsense"),
    ],
)
def test_a_mistake_gives_one_line(arguments: list[str], status: int, told: str, run: Path) -> None:
    ended = iberlm(*[argument.replace("RUN", str(run)) for argument in arguments])
    assert ended.returncode == status
    assert told in ended.stderr
    assert ended.stdout == ""
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("iberlm: ")
    assert all("calibrate: " in line for line in ended.stderr.strip().splitlines()[:-1])  # what was said before it failed
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("tool", [name for name in TOOLS if name != "completion"])
def test_every_tool_explains_itself(tool: str) -> None:
    ended = iberlm(tool, "--help")
    assert ended.returncode == 0
    assert f"iberlm {tool} " in ended.stdout
    assert ended.stderr == ""


def test_settings_of_curation_import_nothing_compiled() -> None:
    code = "import sys, iberlm.cli.curate_verb as verb; verb.AnnotateConfig(); print([name for name in ('numba', 'pyarrow', 'numpy') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_help_of_the_command_and_of_tools_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom iberlm.cli import main, tools\nmain._overview()\ntools.run_tool(['inspect', '--help'])\n"
        "heavy = {'torch', 'pyarrow', 'numpy', 'numba', 'hydra', 'rich.console', 'iberlm.curate'} & set(sys.modules); assert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("iberlm insp", ["inspect"]),
        ("iberlm inspect runs/demo --l", ["--language"]),
        ("iberlm inspect runs/demo --language c", ["ca", "ca-valencia"]),
        ("iberlm calibrate runs/demo --language ", ["es", "ca", "ca-valencia", "eu", "gl"]),
        ("iberlm calibrate runs/demo --", ["--share", "--language", "--out"]),
        ("iberlm inspect runs/de", []),
        ("iberlm completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_completion_offers_options_and_languages(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_bash_completes_folders_where_there_is_nothing_better(tmp_path: Path) -> None:
    (tmp_path / "my_runs").mkdir()
    script = f'export PATH={Path(sys.executable).parent}:$PATH\neval "$({sys.executable} -m iberlm completion bash)"\ncomplete -p iberlm\n'
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ended.stdout.strip() == "complete -o default -F _iberlm_complete iberlm"
