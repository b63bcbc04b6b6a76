"""Data sets of a bundle: from a hub on loopback, or a folder of files, to staged Parquet with commit, licence and checksums."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from iberlm.cli.prefetch_tool import prefetch
from iberlm.core.errors import ConfigError, DataError, IberlmError
from iberlm.core.needs import DATASET, Need
from iberlm.core.staged import BY_HAND, Record, read_record
from iberlm.evaluate.catalogue import task_facts
from iberlm.evaluate.needs import data_needs
from iberlm.evaluate.staging import overrides, staged
from iberlm.evaluate.tasks import load_task
from iberlm.launch.offline.bundle import check_bundle
from iberlm.launch.offline.data_sets import licence_remark
from iberlm.launch.offline.prefetch import gather, gather_from_folder
from tests.evaluate.staged import rows_of
from tests.launch.local_hub import LocalHub, Repository

A, B, C = "a" * 40, "b" * 40, "c" * 40
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["bai", "ez"]), "more": Sequence(Value("int32")), "none": Value("string")})
CONFIGS = """---
license: [cc-by-sa-4.0]
configs:
- config_name: eu
  data_files: [{split: train, path: eu/train.parquet}, {split: test, path: eu/test.parquet}]
- config_name: gl
  data_files: [{split: train, path: gl/train.parquet}, {split: test, path: gl/test.parquet}]
dataset_info:
- config_name: eu
  splits: [{name: test, num_examples: 4, num_bytes: 1000}]
---
# A data set
"""


def parquet(rows: int, first: int = 0, features: Features = FEATURES) -> bytes:
    made = [{"text": f"{n}. testua", "label": n % 2, "more": [n, n + 1], "none": None} for n in range(first, first + rows)]
    data, buffer = Dataset.from_list(made, features=features), io.BytesIO()
    pq.write_table(data.with_format("arrow")[:].cast(features.arrow_schema), buffer)
    return buffer.getvalue()


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


@pytest.fixture
def repositories() -> dict[tuple[str, str], Repository]:
    configs = {f"{config}/{split}.parquet": parquet(rows) for config in ("eu", "gl") for split, rows in (("train", 8), ("test", 4))}
    lines = {"test.jsonl": jsonl({"question": "Que hora é?", "sol": None}, {"question": "E agora?", "sol": "As nove"})}
    converted = Repository(
        B, {"default/test/0000.parquet": parquet(3), "default/test/0001.parquet": parquet(2, 3), "default/partial-train/0000.parquet": parquet(1)}
    )
    script = {"script.py": b"raise SystemExit('never run')", "README.md": b"---\nlicense: other\nlicense_name: town-licence\n---\n"}
    wrong = CONFIGS.replace("num_examples: 4", "num_examples: 5").encode()
    return {
        ("datasets", "town/configs"): Repository(A, {"README.md": CONFIGS.encode(), **configs}),
        ("datasets", "town/lines"): Repository(A, lines),
        ("datasets", "town/tables"): Repository(A, {"tables/dev.csv": b"question,sol\na,b\n", "tables.py": b"raise SystemExit('never run')"}),
        ("datasets", "town/script"): Repository(A, script, branches={"refs/convert/parquet": converted}),
        ("datasets", "town/lost"): Repository(A, {"lost.py": b""}),
        ("datasets", "town/gated"): Repository(A, lines, gated=True),
        ("datasets", "town/wrong"): Repository(A, {"README.md": wrong, **configs}),
        ("datasets", "town/empty"): Repository(A, {"test.csv": b"question,sol\n"}),
    }


@pytest.fixture
def hub(repositories: dict[tuple[str, str], Repository], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with LocalHub(repositories) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def need(name: str, splits: tuple[str, ...] = ("test",), licence: str = "CC-BY-SA-4.0", **more: Any) -> Need:
    return Need(kind=DATASET, name=name, splits=splits, licence=licence, licence_evidence="https://town.example", used_by="suite: town", **more)


def record_of(bundle: Path, name: str, config: str = "default", revision: str = A) -> Record:
    found = read_record(bundle / "tasks" / name.replace("/", "--") / config / revision)
    assert found is not None
    return found


def rows(bundle: Path, name: str, config: str = "default", revision: str = A, split: str = "test") -> Dataset:
    return Dataset(pq.read_table(bundle / "tasks" / name.replace("/", "--") / config / revision / f"{split}.parquet"))


def test_only_the_splits_that_are_read_are_downloaded_with_their_features_and_licence(hub: LocalHub, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    gather(bundle, [need("town/configs", config="eu")])
    assert not [request for request in hub.requests if request.path.endswith(("train.parquet", "gl/test.parquet")) and request.method == "GET"]
    made = rows(bundle, "town/configs", "eu")
    assert made.features == FEATURES
    assert made[1] == {"text": "1. testua", "label": 1, "more": [1, 2], "none": None}
    record = record_of(bundle, "town/configs", "eu")
    assert (record.revision, record.pinned, record.converted) == (A, True, "")
    assert (record.licence, record.licence_evidence, record.card_licence, record.licence_remark) == (
        "CC-BY-SA-4.0", "https://town.example", ["cc-by-sa-4.0"], "",
    )  # fmt: skip
    assert not (bundle / ".downloads").exists()
    assert sorted(path.name for path in (bundle / "tasks").rglob("*") if path.is_file()) == ["staged.json", "test.parquet"]


def test_what_is_pinned_stays_pinned_when_the_hub_moves_on(hub: LocalHub, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    gather(bundle, [need("town/configs", config="eu")])
    before = hub.repositories["datasets", "town/configs"]
    newer = {name: parquet(7) if name.endswith("parquet") else content for name, content in before.files.items()}
    hub.repositories["datasets", "town/configs"] = Repository(C, newer, branches={A: before})
    count = len(hub.requests)
    gather(bundle, [need("town/configs", config="eu")])
    assert len(hub.requests) == count, "a second call asks nothing"
    gather(bundle, [need("town/configs", ("test", "train"), config="eu")])
    assert [path for path in hub.downloads("test.parquet") if path in hub.requests[count:]] == [], "a split that is there is not fetched again"
    record = record_of(bundle, "town/configs", "eu")
    assert {name: split.rows for name, split in record.splits.items()} == {"test": 4, "train": 8}
    gather(bundle, [need("town/configs", config="gl")])  # its parts belong together
    assert record_of(bundle, "town/configs", "gl").splits["test"].rows == 4
    named = need("town/configs", config="gl", revision=C)
    assert "is not in the bundle" in check_bundle(bundle, [named])[0]
    with pytest.raises(DataError, match=r"has 7 rows in its split 'test', and its card says 4"):
        gather(bundle, [replace(named, config="eu")])
    gather(bundle, [named])  # a commit that is named wins
    assert record_of(bundle, "town/configs", "gl", C).splits["test"].rows == 7
    assert check_bundle(bundle, [named, need("town/configs", config="gl")], checksums=True) == []


def test_a_damaged_or_missing_split_is_found_and_fetched_again(hub: LocalHub, tmp_path: Path) -> None:
    bundle, wanted = tmp_path / "bundle", [need("town/configs", ("test", "train"), config="eu")]
    gather(bundle, wanted)
    folder = bundle / "tasks" / "town--configs" / "eu" / A
    content = bytearray((folder / "test.parquet").read_bytes())
    content[-9] ^= 1
    (folder / "test.parquet").write_bytes(content)
    assert check_bundle(bundle, wanted) == []
    assert "test.parquet is damaged: its SHA-256" in check_bundle(bundle, wanted, checksums=True)[0]
    assert "test.parquet is damaged" in check_bundle(bundle, [], checksums=True)[0]  # of another run
    before = len(hub.downloads("train.parquet"))
    gather(bundle, wanted)
    assert len(hub.downloads("train.parquet")) == before
    assert check_bundle(bundle, wanted, checksums=True) == []
    (folder / "train.parquet").unlink()
    assert "train.parquet is missing" in check_bundle(bundle, wanted)[0]
    gather(bundle, wanted)
    assert check_bundle(bundle, wanted, checksums=True) == []
    assert "has no split 'dev', only test, train" in check_bundle(bundle, [need("town/configs", ("dev",), config="eu")])[0]


def test_a_damaged_download_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    hub.spoilt.add("eu/test.parquet")
    with pytest.raises(DataError, match=r"town/configs \(eu\) came damaged from the hub; run the same command again"):
        gather(tmp_path / "bundle", [need("town/configs", config="eu")])
    hub.spoilt.clear()
    gather(tmp_path / "bundle", [need("town/configs", config="eu")])
    assert check_bundle(tmp_path / "bundle", [need("town/configs", config="eu")], checksums=True) == []


def test_json_lines_and_tables_of_text_become_parquet(hub: LocalHub, tmp_path: Path) -> None:
    gather(tmp_path / "bundle", [need("town/lines", licence="CC0-1.0")])
    assert list(rows(tmp_path / "bundle", "town/lines")) == [{"question": "Que hora é?", "sol": None}, {"question": "E agora?", "sol": "As nove"}]
    files = {"builder": "csv", "data_files": {"validation": "hf://datasets/town/tables/tables/dev.csv"}}
    named = need("town/tables", ("validation",), arguments=files)
    gather(tmp_path / "bundle", [named])
    (folder,) = (tmp_path / "bundle" / "tasks" / "town--tables").glob("default-*")
    assert pq.read_table(folder / A / "validation.parquet").to_pylist() == [{"question": "a", "sol": "b"}]
    assert check_bundle(tmp_path / "bundle", [named, need("town/lines")], checksums=True) == []


def test_a_program_is_not_run_and_the_hubs_own_conversion_is_taken(hub: LocalHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gather(tmp_path / "bundle", [need("town/script", licence="MIT")])
    made = rows(tmp_path / "bundle", "town/script")
    assert made["text"][:] == [f"{n}. testua" for n in range(5)]
    assert made.features == FEATURES
    record = record_of(tmp_path / "bundle", "town/script")
    assert (record.revision, record.converted) == (A, B)
    assert record.card_licence == ["other", "town-licence"]
    assert "its card on the hub says the licence is other, town-licence, and the catalogue of tasks says MIT" in record.licence_remark
    told = capfd.readouterr().err
    assert "comes as a program, which is not run; its rows are taken from the hub's own conversion to Parquet" in told
    assert record.licence_remark in told
    with pytest.raises(DataError, match="is too large for the hub's conversion to Parquet, which has only a part of 'train'"):
        gather(tmp_path / "bundle", [need("town/script", ("train",))])


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        (need("town/lost"), DataError, r"comes as a program \(a loading script\), which is never run, and the hub has no conversion of it.*--from-folder"),
        (need("town/script", config="none"), DataError, "has no configuration 'none' in the hub's conversion to Parquet; it has default"),
        (need("town/configs", ("dev",), config="eu"), DataError, "has no split 'dev'; it has train, test"),
        (need("town/configs", config="none"), DataError, "none"),
        (need("town/empty"), DataError, "has no rows in its split 'test'"),
        (need("town/wrong", config="eu"), DataError, r"has 4 rows in its split 'test', and its card says 5: the files and the card do not belong together"),
        (need("town/gated"), IberlmError, "is gated: ask for access"),
        (need("town/nowhere"), ConfigError, "is not on the hub"),
        (need("town/lines", revision=B), ConfigError, "is not on the hub"),
        (need("town/lines", revision="main"), ConfigError, "'main' is not a commit of town/lines"),
    ],
)
def test_what_cannot_be_had_is_named_with_the_mend(hub: LocalHub, tmp_path: Path, wanted: Need, kind: type[IberlmError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        gather(tmp_path / "bundle", [wanted])
    assert str(caught.value).startswith("suite: town: ")
    assert not list((tmp_path / "bundle").rglob("staged.json"))


def test_all_data_sets_are_tried_before_those_that_cannot_be_had_are_told(hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 data sets cannot be had; the others are there:") as caught:
        gather(tmp_path / "bundle", [need("town/lost"), need("town/gated"), need("town/lines")])
    assert "town/lost comes as a program" in str(caught.value)
    assert "town/gated is gated" in str(caught.value)
    assert record_of(tmp_path / "bundle", "town/lines").splits["test"].rows == 2


def test_tasks_of_one_data_set_are_one_download_and_the_suite_finds_it(hub: LocalHub, tmp_path: Path) -> None:
    files = {}
    for split in ("train", "validation"):
        buffer = io.BytesIO()
        made = rows_of("HiTZ/truthfulqa-multi", "ca", split)
        pq.write_table(made.with_format("arrow")[:].cast(made.features.arrow_schema), buffer)
        files[f"ca/{split}.parquet"] = buffer.getvalue()
    paths = ", ".join(f"{{split: {split}, path: ca/{split}.parquet}}" for split in ("train", "validation"))
    readme = f"---\nlicense: apache-2.0\nconfigs:\n- config_name: ca\n  data_files: [{paths}]\n---\n"
    hub.repositories["datasets", "HiTZ/truthfulqa-multi"] = Repository(A, {"README.md": readme.encode(), **files})
    tasks = [task_facts(f"truthfulqa-multi_{kind}_ca") for kind in ("mc1", "mc2", "gen")]
    (wanted,) = data_needs(tasks, [])
    assert wanted.used_by == "suite: truthfulqa-multi_mc1_ca, truthfulqa-multi_mc2_ca, truthfulqa-multi_gen_ca"
    assert wanted.splits == ("train", "validation")
    bundle = tmp_path / "bundle"
    names = "[truthfulqa-multi_mc1_ca, truthfulqa-multi_mc2_ca, truthfulqa-multi_gen_ca]"
    settings = ["suite.tasks=[]", f"+suite.upstream={{ca: {names}}}", f"run_dir={tmp_path}/run", "validation=''"]
    prefetch("evaluate", settings, out=bundle, wheels=False, loops=False, check=False)
    assert len(hub.downloads("train.parquet")) == 1  # the other has the same bytes here
    prefetch("evaluate", settings, out=bundle, wheels=False, loops=False, check=True)
    assert data_needs(tasks, [bundle]) == []
    found = staged(tasks[0], [bundle])
    assert found is not None
    task = load_task(tasks[0], overrides=overrides(found), metadata={})
    assert task.eval_docs[0]["mc1_targets"]["labels"] == [1, 0, 0]


def test_rows_are_staged_from_a_folder_that_somebody_copied(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place, bundle = tmp_path / "copied", tmp_path / "bundle"
    for name, content in (("README.md", CONFIGS.encode()), ("eu/train.parquet", parquet(8)), ("eu/test.parquet", parquet(4))):
        path = place / "town" / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    plain = place / "town--lines" / "default"
    plain.parent.mkdir()
    (plain.parent / "eval.jsonl").write_bytes(jsonl({"question": "Que hora é?"}))
    wanted = [need("town/configs", config="eu", revision=A), need("town/lines", ("eval",)), need("town/nowhere")]
    with pytest.raises(DataError, match=r"copied has no folder of these data sets .*\n  town/nowhere: .*copied/town/nowhere \(suite: town\)"):
        gather_from_folder(bundle, wanted, place)
    (first,) = (bundle / "tasks" / "town--configs" / "eu").iterdir()
    assert first.name.startswith(BY_HAND)
    assert record_of(bundle, "town/configs", "eu", first.name).card_licence == ["cc-by-sa-4.0"]
    assert rows(bundle, "town/configs", "eu", first.name).features == FEATURES
    assert check_bundle(bundle, wanted[:2], checksums=True) == []

    (place / "town" / "configs" / "eu" / "test.parquet").write_bytes(parquet(4, first=1))
    gather_from_folder(bundle, wanted[:2], place)
    (second,) = (bundle / "tasks" / "town--configs" / "eu").iterdir()  # in place of the first
    assert second != first
    with pytest.raises(DataError, match=r"has no split 'test' in .*town--lines: there is no test.parquet, test.jsonl, .*; it has eval"):
        gather_from_folder(bundle, [need("town/lines")], place)
    assert "is gated" not in capfd.readouterr().err


def test_the_command_line_stages_a_suite_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    made = rows_of("gplsi/ES-VA_translation_test", "", "test")
    (tmp_path / "copied" / "gplsi" / "ES-VA_translation_test").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(made)), tmp_path / "copied" / "gplsi" / "ES-VA_translation_test" / "test.parquet")
    settings = ["suite.tasks=[]", "+suite.upstream={ca-valencia: [phrases_es-va]}", f"run_dir={tmp_path}/run", "validation=''"]
    prefetch("evaluate", settings, out=tmp_path / "bundle", from_folder=tmp_path / "copied", wheels=False, loops=False, check=False)
    prefetch("evaluate", settings, out=tmp_path / "bundle", wheels=False, loops=False, check=True)
    found = staged(task_facts("phrases_es-va"), [tmp_path / "bundle"])
    assert found is not None
    assert found.revision.startswith(BY_HAND)
    with pytest.raises(ConfigError, match="--from-folder: there is no folder"):
        prefetch("evaluate", settings, out=tmp_path / "bundle", from_folder=tmp_path / "none", wheels=False, loops=False, check=False)
    with pytest.raises(ConfigError, match="these settings need no data set"):
        prefetch("pretrain", [], out=tmp_path / "bundle", from_folder=tmp_path / "copied", wheels=False, loops=False, check=False)


@pytest.mark.parametrize(
    ("known", "card", "told"),
    [
        ("CC-BY-4.0", ["cc-by-4.0"], False),
        ("CC-BY-4.0", [], False),
        ("", ["mit"], False),
        ("MIT AND CC-BY-4.0", ["cc-by-4.0"], False),
        ("LicenseRef-Town", ["other", "town"], False),
        ("CC-BY-4.0", ["cc-by-sa-4.0"], True),
        ("CC-BY-NC-4.0", ["cc-by-4.0"], True),
        ("MIT", ["other"], True),
    ],
)
def test_a_licence_that_differs_from_the_cards_is_told(known: str, card: list[str], told: bool) -> None:
    assert bool(licence_remark(known, card)) is told
