"""Staged data sets: found by a task's settings, handed over in memory with their features, told apart by their rows."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Value

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import sha256_file
from iberlm.core.staged import BY_HAND, RECORD, content_hash, data_set_folder, read_record, write_record, write_split
from iberlm.evaluate.catalogue import TaskFacts, task_facts
from iberlm.evaluate.staging import overrides, source_of, splits_read, staged
from iberlm.evaluate.tasks import load_task
from tests.evaluate.staged import COMMIT, ROWS, rows_of, stage, stage_tasks

OTHER = "f" * 40


def facts_of(tmp_path: Path, text: str, **known: Any) -> TaskFacts:
    """A task of a file of its own, as one of lm-eval's."""
    path = tmp_path / "town.yaml"
    path.write_text(f"task: town\n{text}", encoding="utf-8")
    given = {"dataset": "town/set", "metric": "acc", "licence": "CC0-1.0", "measures": "reading", "family": "town", "language": "gl"}
    return TaskFacts(name="town", file=path, source="upstream", **given | known)


def test_a_task_reads_staged_rows_with_their_features_and_writes_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = task_facts("xnli_eu")
    rows = rows_of("facebook/xnli", "eu", "test")  # with labels that are classes
    assert rows.features["label"].names == ["entailment", "neutral", "contradiction"]
    folder = stage(tmp_path / "data", source_of(facts))  # type: ignore[arg-type]
    record = read_record(folder)
    assert record is not None
    entry = write_split(folder, "test", rows.with_format("arrow")[:].cast(rows.features.arrow_schema))
    write_record(folder, dataclasses.replace(record, splits=record.splits | {"test": entry}))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    found = staged(facts, [tmp_path / "data"])
    assert found is not None
    task = load_task(facts, overrides=overrides(found), metadata={})
    assert task.eval_docs.features == rows.features
    assert task.eval_docs[5] == rows[5]
    assert found.rows == {"test": ROWS, "train": ROWS}
    assert not (tmp_path / "cache").exists()


def test_nested_columns_and_columns_that_are_empty_keep_their_types(tmp_path: Path) -> None:
    facts = task_facts("mgsm_direct_es_spanish_bench")
    stage_tasks(tmp_path, [facts, task_facts("openbookqa_ca")])
    found, other = staged(facts, [tmp_path]), staged(task_facts("openbookqa_ca"), [tmp_path])
    assert found is not None
    assert other is not None
    task = load_task(facts, overrides=overrides(found), metadata={})
    assert task.eval_docs.features == Features(
        {"question": Value("string"), "answer": Value("string"), "answer_number": Value("int32"), "equation_solution": Value("string")}
    )
    assert task.eval_docs[3]["answer"] is None
    assert load_task(task_facts("openbookqa_ca"), overrides=overrides(other), metadata={}).eval_docs[0]["choices"]["label"] == ["A", "B", "C", "D"]


@pytest.mark.parametrize(
    ("settings", "splits"),
    [
        ({"test_split": "test"}, ("test",)),
        ({"validation_split": "dev"}, ("dev",)),
        ({"test_split": "test", "validation_split": "validation"}, ("test", "validation")),
        ({"test_split": "test", "validation_split": "validation", "training_split": "train"}, ("test", "train")),
        ({"test_split": "test", "training_split": "train", "fewshot_split": "validation"}, ("test", "validation")),
        ({"test_split": "test", "training_split": "train", "fewshot_config": {"split": "dev"}}, ("test", "dev")),
        ({"test_split": "test", "training_split": "train", "fewshot_config": {"samples": [{"x": 1}]}}, ("test",)),
        ({"test_split": "test", "fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}}, ("test",)),
    ],
)
def test_the_splits_of_a_task_are_those_that_the_harness_reads(settings: dict[str, Any], splits: tuple[str, ...], tmp_path: Path) -> None:
    assert splits_read(settings) == splits
    text = (
        f"output_type: generate_until\ndoc_to_text: x\ndoc_to_target: x\n{''.join(f'{key}: {json.dumps(value)}{chr(10)}' for key, value in settings.items())}"
    )
    facts = facts_of(tmp_path, text)
    asked: list[str] = []

    class Rows(dict[str, Any]):
        def __getitem__(self, split: str) -> Any:
            asked.append(split)
            return rows_of("gplsi/TerretaQA", "", split)

    load_task(facts, overrides={"custom_dataset": lambda **_: Rows(), "dataset_path": "town/set"}, metadata={})
    assert set(asked) == set(splits)  # by lm-eval itself


def test_the_fingerprint_is_of_the_rows_and_not_of_the_file(tmp_path: Path) -> None:
    facts = task_facts("belebele_cat_Latn")
    folder = stage(tmp_path, source_of(facts))  # type: ignore[arg-type]
    first = staged(facts, [tmp_path])
    record = read_record(folder)
    assert first is not None
    assert record is not None
    path = first.files["test"]
    table = pq.read_table(path)
    assert first.sha256 == {"test": sha256_file(path)}
    pq.write_table(table, tmp_path / "other.parquet", compression="snappy", row_group_size=3)
    with pq.ParquetFile(tmp_path / "other.parquet") as other:
        assert content_hash(other.iter_batches(2)) == record.splits["test"].content
    assert sha256_file(tmp_path / "other.parquet") != sha256_file(path)

    changed = table.set_column(0, table.field(0), pa.array(["Un text nou."] * table.num_rows))
    write_record(folder, dataclasses.replace(record, splits={"test": write_split(folder, "test", changed)}))
    second = staged(facts, [tmp_path])
    assert second is not None
    assert second.fingerprint != first.fingerprint


def test_the_named_commit_is_taken_then_the_pinned_one_then_rows_staged_by_hand(tmp_path: Path) -> None:
    facts = task_facts("belebele_cat_Latn")
    source = source_of(facts)
    assert source is not None

    def revision(**known: Any) -> str | None:
        found = staged(dataclasses.replace(facts, **known), [tmp_path / "nowhere", tmp_path])
        return found.revision if found else None

    assert revision() is None
    folder = stage(tmp_path, source)
    record = read_record(folder)
    assert record is not None
    by_hand = folder.with_name(f"{BY_HAND}0123456789ab")
    folder.rename(by_hand)
    write_record(by_hand, dataclasses.replace(record, revision=by_hand.name, pinned=False))
    assert revision() == revision(revision=OTHER) == by_hand.name  # the record says what they are
    stage(tmp_path, dataclasses.replace(source, revision=OTHER))
    assert revision() == revision(revision=OTHER) == OTHER
    stage(tmp_path, source)
    assert revision() == COMMIT
    assert revision(revision=OTHER) == OTHER
    assert revision(revision="e" * 40) == by_hand.name


def test_our_own_items_and_data_that_cannot_be_staged_have_no_copy(tmp_path: Path) -> None:
    assert source_of(task_facts("reading_gl")) is None
    assert staged(task_facts("reading_gl"), [tmp_path]) is None
    remote = facts_of(tmp_path, "dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {test: https://town.example/items.json}}\n", dataset="json")
    with pytest.raises(ConfigError, match=r"town: reads https://town.example/items.json each time that it is loaded, which cannot be pinned to a commit"):
        source_of(remote)
    assert staged(remote, [tmp_path]) is None
    with pytest.raises(ConfigError, match="its data 'csv' are no data set of the hub"):
        source_of(facts_of(tmp_path, "dataset_path: town/set\ntest_split: test\n", dataset="csv"))
    two = "dataset_path: csv\ntest_split: test\ndataset_kwargs: {data_files: {test: hf://datasets/town/a/x.csv, train: hf://datasets/town/b/x.csv}}\n"
    with pytest.raises(ConfigError, match=r"reads files of several data sets \(town/a, town/b\)"):
        source_of(facts_of(tmp_path, two))


def test_files_of_a_data_set_on_the_hub_are_a_source_of_their_own(tmp_path: Path) -> None:
    files = {"test": "hf://datasets/town/set/items.csv"}
    facts = facts_of(tmp_path, f"dataset_path: csv\ntest_split: test\ndataset_kwargs: {{data_files: {json.dumps(files)}, trust_remote_code: true}}\n")
    source = source_of(facts)
    assert source is not None
    assert (source.dataset, source.splits, source.arguments) == ("town/set", ("test",), {"builder": "csv", "data_files": files})
    plain = source_of(facts_of(tmp_path, "dataset_path: town/set\ntest_split: test\n"))
    assert plain is not None
    assert data_set_folder(tmp_path, "town/set", "", source.arguments) != data_set_folder(tmp_path, "town/set", "", plain.arguments)


def test_a_damaged_copy_is_told_with_the_mend(tmp_path: Path) -> None:
    facts = task_facts("belebele_cat_Latn")
    folder = stage(tmp_path, source_of(facts))  # type: ignore[arg-type]
    found = staged(facts, [tmp_path])
    assert found is not None
    content = bytearray(found.files["test"].read_bytes())
    content[len(content) // 2] ^= 1
    found.files["test"].write_bytes(content)
    assert found.problems() == []
    assert "is damaged: its SHA-256" in found.problems(checksums=True)[0]
    found.files["test"].write_bytes(content[:-1])
    assert f"has {len(content) - 1:,} bytes, not {len(content):,}" in found.problems()[0]
    with pytest.raises(DataError, match=r"test.parquet has .* bytes, not .*; run `iberlm prefetch` again"):
        load_task(facts, overrides=overrides(found), metadata={})
    os.truncate(folder / RECORD, 40)
    with pytest.raises(CorruptError, match="not the record of a staged data set"):
        staged(facts, [tmp_path])
    (folder / RECORD).write_text('{"format": 2, "dataset": "facebook/belebele", "revision": "x", "splits": {}}')
    with pytest.raises(CorruptError, match="format 2, 1 was expected; it is of another version of IberLM"):
        staged(facts, [tmp_path])


@pytest.mark.parametrize(("dataset", "config"), [("../x", ""), ("town/set", "a b"), ("town/set", "../../etc")])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path, dataset: str, config: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a folder"):
        data_set_folder(tmp_path, dataset, config, {})


def test_a_slice_of_a_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the whole split"):
        write_split(tmp_path, "train[:10]", pa.table({"x": [1]}))
