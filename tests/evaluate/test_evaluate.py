"""The stage on a tiny model: its files, its agreement with plain lm_eval and with torch, and what it refuses."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.languages import LANGUAGES
from iberlm.core.manifest import Manifest
from iberlm.core.resources import resource_dir
from iberlm.core.stage import WouldRunError
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.evaluate import run
from tests.evaluate.tiny import CONTEXT_TOKENS, sample_texts, write_model, write_validation

FAMILIES = ["minimal_pairs", "reading", "bits_per_byte"]


def settings(model: Path, validation: Path, **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(model_folder=str(model), validation=str(validation), **changes)


def rows(manifest: Manifest, name: str = "results.parquet") -> list[dict[str, Any]]:
    return pq.read_table(manifest.path(name)).to_pylist()


@pytest.fixture(scope="module")
def evaluated(model: Path, validation: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The sample suite in all languages."""
    return run(settings(model, validation), [], tmp_path_factory.mktemp("run") / "evaluate")


def test_a_suite_fills_the_table_of_families_by_languages(evaluated: Manifest) -> None:
    table = json.loads(evaluated.path("table.json").read_text())
    assert evaluated.metrics == table
    assert sorted(table) == sorted(FAMILIES)
    for family, chance, size in (("minimal_pairs", 0.5, 40), ("reading", 0.25, 20)):
        assert sorted(table[family]) == sorted(LANGUAGES)
        for cell in table[family].values():
            assert cell["chance"] == chance
            assert cell["n"] >= size
            assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
            assert cell["averaged"] == (cell["n"] >= 100)
    assert {cell["metric"] for cell in table["reading"].values()} == {"acc_norm"}
    assert {cell["metric"] for cell in table["minimal_pairs"].values()} == {"acc"}
    for cell in table["bits_per_byte"].values():
        assert cell["n"] == 3
        assert cell["chance"] is None
        assert cell["stderr"] > 0
    languages = json.loads(evaluated.path("languages.json").read_text())
    assert sorted(languages) == sorted(LANGUAGES)
    for tag, mean in languages.items():
        assert len(mean["tasks"]) + len(mean["left_out"]) == len(table)
        assert {f"bits_per_byte_{tag.replace('-', '_')}"} <= {entry["task"] for entry in mean["left_out"]}


def test_each_row_of_the_results_says_what_it_is(evaluated: Manifest, model: Path) -> None:
    results = [row for row in rows(evaluated) if not row["group"]]
    assert len(results) == len(LANGUAGES) * 5  # acc and acc_norm twice, bits_per_byte once
    assert all(row["stderr"] is not None for row in results)
    for row in results:
        assert (row["suite"], row["model_name"], row["num_fewshot"], row["limit"]) == ("unnamed", str(model), 0, 0)
        assert float(row["version"]) >= 1
        assert (row["backend"], row["dtype"], row["device"], row["batch"], row["template"]) == ("transformers", "float32", "cpu", "8192 tokens", "none")
        assert len(row["model"]) == len(row["task_key"]) == len(row["prompts_hash"]) == 64
        assert sorted(json.loads(row["software"])) == ["iberlm", "lm_eval", "torch", "transformers"]
        assert row["parameters"] == sum(weight.numel() for weight in load_file(model / "model.safetensors").values())
        assert row["higher_is_better"] == (row["metric"] != "bits_per_byte")
        assert row["licence"] == ("CC0-1.0" if row["family"] != "bits_per_byte" else row["licence"])
        assert f"suite.tasks=[{row['family']}]" in row["command"]
    assert [row["metric"] for row in results if row["primary"]] == ["acc"] * 5 + ["acc_norm"] * 5 + ["bits_per_byte"] * 5
    assert len({row["prompts_hash"] for row in results if row["primary"]}) == 15


def test_patterns_of_a_task_add_up_to_it(evaluated: Manifest) -> None:
    results = [row for row in rows(evaluated) if row["task"] == "minimal_pairs_eu" and row["primary"]]
    whole, parts = [row for row in results if not row["group"]], [row for row in results if row["group"]]
    assert len(parts) > 3
    assert sum(row["n"] for row in parts) == whole[0]["n"]
    assert sum(row["value"] * row["n"] for row in parts) / whole[0]["n"] == pytest.approx(whole[0]["value"])


def test_items_add_up_to_the_results(evaluated: Manifest) -> None:
    items = rows(evaluated, "items.parquet")
    for row in (row for row in rows(evaluated) if row["primary"] and not row["group"]):
        own = [item for item in items if item["task"] == row["task"]]
        assert len(own) == row["n"]
        assert sum(item["score"] * item["weight"] for item in own) / sum(item["weight"] for item in own) == pytest.approx(row["value"], abs=1e-12)
        for item in own:
            assert item["id"]
            assert item["seen"] is None
            if row["family"] == "bits_per_byte":
                assert (item["target"], item["prediction"], item["prompt"], item["choices"]) == (None, None, "", [])
            else:
                assert bool(item["score"]) == (item["prediction"] == item["target"])
                assert len(json.loads(item["responses"])) == len(item["choices"]) == {"minimal_pairs": 2, "reading": 4}[row["family"]]


def test_a_second_run_is_skipped_and_other_settings_or_weights_are_not(
    model: Path, validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(model, tmp_path / "model")
    suite = SuiteConfig(tasks=["reading"], languages=["es"])
    first = run(settings(own, validation, suite=suite, limit=2), [], tmp_path / "out")
    before = first.path("results.parquet").stat().st_mtime_ns
    moved = own.rename(tmp_path / "moved")
    again = run(settings(moved, validation, suite=suite, limit=2), [], tmp_path / "out")
    assert "complete, skipped" in capsys.readouterr().err
    assert again.path("results.parquet").stat().st_mtime_ns == before
    assert run(settings(moved, validation, suite=suite, limit=3), [], tmp_path / "out").metrics["reading"]["es"]["n"] == 3
    weights = load_file(moved / "model.safetensors")
    weights["lm_head.weight"] *= 2
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert run(settings(moved, validation, suite=suite, limit=3), [], tmp_path / "out").key != again.key


def test_a_dry_run_before_the_model_is_there_says_that_it_would_run(tmp_path: Path) -> None:
    with pytest.raises(WouldRunError):
        run(settings(tmp_path / "model", tmp_path / "curate", dry_run=True), [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def reference_bits_per_byte(folder: Path, texts: list[str]) -> float:
    """The documented formula, one window at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    bits = 0.0
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        known = [tokenizer.bos_token_id, *ids]
        for start in range(0, len(ids), CONTEXT_TOKENS):
            targets = ids[start : start + CONTEXT_TOKENS]
            window = known[start : start + len(targets)]
            if start and len(targets) < CONTEXT_TOKENS:  # the last window reaches back to a full context
                window = known[start + len(targets) - CONTEXT_TOKENS : start + len(targets)]
            with torch.no_grad():
                logp = model(torch.tensor([window])).logits[0].double().log_softmax(-1)[-len(targets) :]
            bits -= float(logp.gather(1, torch.tensor(targets)[:, None]).sum()) / math.log(2)
    return bits / sum(len(text.encode()) for text in texts)


def test_bits_per_byte_is_what_torch_computes_for_documents_within_and_beyond_the_context(evaluated: Manifest, model: Path, validation: Path) -> None:
    texts = pq.read_table(validation / "documents" / "validation.eu.parquet")["text"].to_pylist()
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(model)(texts)["input_ids"]]
    assert min(lengths) < CONTEXT_TOKENS < 2 * CONTEXT_TOKENS < max(lengths)
    assert evaluated.metrics["bits_per_byte"]["eu"]["value"] == pytest.approx(reference_bits_per_byte(model, texts), rel=1e-6)


def test_plain_lm_eval_on_the_same_files_gives_the_same_numbers(plain_model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(languages=["ca-valencia"])
    # one sequence at a time: plain lm-eval puts requests of several tasks into one batch
    ours = run(settings(plain_model, validation, suite=suite, batch_size=1), [], tmp_path / "evaluate")
    (tmp_path / "elsewhere").mkdir()
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={plain_model}",
        "--include_path",
        str(resource_dir("eval")),
    ]
    command += [
        "--tasks",
        ",".join(f"{family}_ca_valencia" for family in FAMILIES),
        "--device",
        "cpu",
        "--batch_size",
        "1",
        "--output_path",
        str(tmp_path / "plain.json"),
    ]
    environment = os.environ | {"IBERLM_VALIDATION": str(validation), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = tmp_path.rglob("plain*.json")
    plain = json.loads(written.read_text())["results"]
    for row in (row for row in rows(ours) if not row["group"]):
        assert plain[row["task"]][f"{row['metric']},none"] == row["value"], row["task"]


def test_no_connection_is_tried_even_where_nothing_is_set_offline(model: Path, validation: Path, tmp_path: Path) -> None:
    code = """
import sys, pathlib
tried = []
sys.addaudithook(lambda event, details: tried.append((event, details)) if event in ("socket.connect", "socket.getaddrinfo") else None)
import datasets, transformers
assert not datasets.config.HF_HUB_OFFLINE
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.evaluate import run
model, validation, out = sys.argv[1:]
run(EvaluateConfig(model_folder=model, validation=validation, suite=SuiteConfig(languages=["gl"]), limit=2), [], pathlib.Path(out))
assert not datasets.config.HF_HUB_OFFLINE
print(tried)
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")} | {
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    environment |= {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29500"}  # as in a Slurm job: no other ranks are waited for
    command = [sys.executable, "-c", code, str(model), str(validation), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Running loglikelihood requests" not in done.stderr


def test_a_language_without_validation_documents_has_no_cell(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curated = write_validation(tmp_path / "curate", {"es": sample_texts("es")[:2], "eu": [], "gl": [""]})
    suite = SuiteConfig(tasks=["bits_per_byte"], languages=["es", "ca", "eu", "gl"])
    manifest = run(settings(model, curated, suite=suite), [], tmp_path / "out")
    assert list(manifest.metrics["bits_per_byte"]) == ["es"]
    shown = capsys.readouterr()
    for language in ("ca", "eu", "gl"):
        assert f"no validation documents in {language}" in shown.err
    assert {row["language"] for row in rows(manifest)} == {"es"}


def test_the_table_is_printed_by_language_with_notes_below(model: Path, validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = run(settings(model, validation, limit=4, suite=SuiteConfig(tasks=["reading"], languages=["gl", "es"])), [], tmp_path / "out")
    header, row, brackets, *notes = capsys.readouterr().out.splitlines()
    assert header.split() == ["task", "metric", "chance", "es", "gl"]
    assert row.split()[:3] == ["reading", "acc_norm", "0.25"]
    assert f"{manifest.metrics['reading']['es']['value']:.3f}" in row
    assert f"[{manifest.metrics['reading']['gl']['low']:.3f}, " in row
    assert brackets == "95% intervals in brackets"
    marked = [f"* reading, {tag}: {cell['note']}" for tag, cell in manifest.metrics["reading"].items() if cell["note"]]
    assert sorted(notes) == sorted([*marked, "not in the mean: reading_es, reading_gl (4 items, fewer than 100)"])


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary_a_token(model: Path, validation: Path, tmp_path: Path) -> None:
    blank = shutil.copytree(model, tmp_path / "model")
    weights = load_file(blank / "model.safetensors")
    weights["lm_head.weight"].zero_()
    save_file(weights, blank / "model.safetensors", metadata={"format": "pt"})
    suite = SuiteConfig(tasks=["bits_per_byte"], languages=["es"])
    texts = pq.read_table(validation / "documents" / "validation.es.parquet")["text"].to_pylist()
    tokens = sum(len(AutoTokenizer.from_pretrained(blank).encode(text, add_special_tokens=False)) for text in texts)
    uniform = tokens * math.log2(384) / sum(len(text.encode()) for text in texts)
    assert run(settings(blank, validation, suite=suite), [], tmp_path / "out").metrics["bits_per_byte"]["es"]["value"] == pytest.approx(uniform, rel=1e-6)


def test_a_single_item_has_no_standard_error(model: Path, validation: Path, tmp_path: Path) -> None:
    table = run(settings(model, validation, suite=SuiteConfig(languages=["es"]), limit=1), [], tmp_path / "out").metrics
    assert [table[family]["es"]["stderr"] for family in FAMILIES] == [None, None, None]


def test_likelihoods_of_a_bfloat16_model_keep_their_digits(model: Path, validation: Path, tmp_path: Path) -> None:
    manifest = run(settings(model, validation, dtype="bfloat16", suite=SuiteConfig(tasks=["minimal_pairs"], languages=["es"])), [], tmp_path / "out")
    assert rows(manifest)[0]["dtype"] == "bfloat16"
    values = [value for item in rows(manifest, "items.parquet") for value in json.loads(item["responses"])]
    assert max(abs(value) for value, _ in values) > 128
    assert any(value != round(value) for value, _ in values)


def test_questions_go_into_the_chat_template_and_raw_text_does_not(plain_model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(languages=["es"])
    plain = run(settings(plain_model, validation, suite=suite), [], tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"chat_template: the tokenizer of .* has none"):
        run(settings(plain_model, validation, suite=suite, chat_template=True), [], tmp_path / "refused")
    chatty = shutil.copytree(plain_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    tokenizer.save_pretrained(chatty)
    chat = run(settings(chatty, validation, suite=suite, chat_template=True), [], tmp_path / "chat")
    hashes = [{row["family"]: (row["prompts_hash"], row["template"]) for row in rows(manifest)} for manifest in (plain, chat)]
    assert hashes[0]["reading"][0] != hashes[1]["reading"][0]
    assert hashes[0]["reading"][1] == "none"
    assert len(hashes[1]["reading"][1]) == 64
    for family in ("minimal_pairs", "bits_per_byte"):
        assert hashes[0][family] == hashes[1][family]
        assert chat.metrics[family] == plain.metrics[family]


def test_solved_examples_are_put_before_questions_only(model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=["minimal_pairs", "reading"], languages=["eu"])
    found = [run(settings(model, validation, suite=suite, num_fewshot=shots, limit=3), [], tmp_path / str(shots)) for shots in (0, 1)]
    shown = [{row["family"]: (row["num_fewshot"], row["prompts_hash"]) for row in rows(manifest)} for manifest in found]
    assert shown[0]["minimal_pairs"] == shown[1]["minimal_pairs"]
    assert (shown[0]["reading"][0], shown[1]["reading"][0]) == (0, 1)
    assert shown[0]["reading"][1] != shown[1]["reading"][1]


def damage_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def damage_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def other_format(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shrink_embeddings(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    small = weights | {name: weights[name][:300].clone() for name in ("model.embed_tokens.weight", "lm_head.weight")}
    save_file(small, folder / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"vocab_size": 300}))


def spoil_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no folder"),
        (damage_config, r"holds no config\.json"),
        (damage_tokenizer, "holds no tokenizer files"),
        (other_format, r"holds no \*\.safetensors"),
        (cut_weights, "cannot be loaded as a model"),
        (lose_a_weight, r"1 weights are missing .*up_proj"),
        (shrink_embeddings, "its tokenizer has 384 tokens and its embeddings 300 rows"),
        (spoil_weights, "reading_es: log-likelihood nan on .*try dtype=float32"),
    ],
)
def test_a_model_that_cannot_be_scored_is_refused(model: Path, validation: Path, tmp_path: Path, damage: Any, message: str) -> None:
    damaged = shutil.copytree(model, tmp_path / "model")
    damage(damaged)
    with pytest.raises(DataError, match=message):
        run(settings(damaged, validation, suite=SuiteConfig(tasks=["reading"], languages=["es"]), limit=2), [], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_folder_without_any_validation_documents_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation: .* holds no validation\.LANG\.parquet for es"):
        run(settings(model, tmp_path, suite=SuiteConfig(languages=["es"])), [], tmp_path / "out")


def test_a_gpu_that_is_not_there_is_refused(model: Path, validation: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device: there is no 'cuda:63' here"):
        run(settings(model, validation, device="cuda:63", suite=SuiteConfig(languages=["es"])), [], tmp_path / "out")


def test_a_model_spread_over_the_devices_scores_the_same(evaluated: Manifest, model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=["bits_per_byte"], languages=["es"])
    spread = run(settings(model, validation, device="spread", suite=suite), [], tmp_path / "out")
    assert spread.metrics["bits_per_byte"]["es"]["value"] == pytest.approx(evaluated.metrics["bits_per_byte"]["es"]["value"], rel=1e-5)


def test_tasks_of_lm_eval_are_asked_for_offline_and_by_name(model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=[], upstream={"eu": ["belebele_eus_Latn"]})
    with pytest.raises(DataError, match=r"belebele_eus_Latn"):
        run(settings(model, validation, suite=suite, limit=2), [], tmp_path / "out")


def test_two_models_are_told_apart_in_the_store(model: Path, validation: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "model", adds_bos=True, seed=1)
    suite = SuiteConfig(tasks=["minimal_pairs"], languages=["es"])
    first, second = (rows(run(settings(folder, validation, suite=suite), [], tmp_path / name))[0] for folder, name in ((model, "a"), (other, "b")))
    assert first["model"] != second["model"]
    assert first["prompts_hash"] == second["prompts_hash"]
    assert first["value"] != second["value"]


def unstamped(manifest: Manifest) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "created"} for row in rows(manifest, "items.parquet")]


def test_processes_that_share_the_items_answer_as_one_does(model: Path, validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = SuiteConfig(tasks=["reading", "bits_per_byte"], languages=["gl"])
    alone = run(settings(model, validation, suite=suite, batch_size=2), [], tmp_path / "alone/out")
    shared = run(settings(model, validation, suite=suite, batch_size=2, processes=2), [], tmp_path / "shared/out")
    assert "2 processes share the items" in capsys.readouterr().err
    assert unstamped(alone) == unstamped(shared)
    assert alone.metrics == shared.metrics
    assert not list((tmp_path / "shared/store/journal").glob("*.jsonl"))


def test_what_the_store_has_is_answered_without_torch_and_lm_eval(model: Path, validation: Path, tmp_path: Path) -> None:
    code = """
import sys, pathlib
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.evaluate import run
model, validation, out = sys.argv[1:]
run(EvaluateConfig(model_folder=model, validation=validation, suite=SuiteConfig(languages=["eu"])), [], pathlib.Path(out))
print([name for name in ("torch", "lm_eval", "transformers", "datasets") if name in sys.modules])
"""
    first = run(settings(model, validation, suite=SuiteConfig(languages=["eu"])), [], tmp_path / "first")
    done = subprocess.run([sys.executable, "-c", code, str(model), str(validation), str(tmp_path / "second")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 of 3 tasks are answered" in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for name in ("results.parquet", "items.parquet"):
        assert pq.read_table(tmp_path / "first" / name).equals(pq.read_table(tmp_path / "second" / name)), name
    assert json.loads((tmp_path / "second/table.json").read_text()) == first.metrics


def test_no_request_is_computed_twice(model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=["reading"], languages=["ca"])
    some = run(settings(model, validation, suite=suite, limit=10), [], tmp_path / "some")
    whole = run(settings(model, validation, suite=suite), [], tmp_path / "whole")
    before, after = rows(some, "items.parquet"), rows(whole, "items.parquet")

    def answers(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Without the key of the task as it was asked then."""
        return [{name: value for name, value in item.items() if name != "task_key"} for item in items]

    assert answers(after[:10]) == answers(before)
    assert len({row["created"] for row in after[10:]} - {row["created"] for row in before}) == 1
    again = run(settings(model, validation, suite=suite, limit=12), [], tmp_path / "again")
    assert answers(rows(again, "items.parquet")) == answers(after[:12])
    assert len({row["task_key"] for row in after}) == 1
    other = run(settings(model, validation, suite=suite, limit=10, dtype="bfloat16"), [], tmp_path / "other")
    assert {row["key"] for row in rows(other, "items.parquet")}.isdisjoint(row["key"] for row in before)


def test_two_evaluations_are_compared_item_by_item(model: Path, validation: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "model", adds_bos=True, seed=1)
    suite = SuiteConfig(tasks=["minimal_pairs"], languages=["es", "gl"])
    run(settings(model, validation, suite=suite), [], tmp_path / "a")
    second = run(settings(other, validation, suite=suite, compare_with=str(tmp_path / "a")), [], tmp_path / "b")
    found = json.loads(second.path("comparison.json").read_text())
    assert [entry["task"] for entry in found["tasks"]] == ["minimal_pairs_es", "minimal_pairs_gl"]
    for entry in found["tasks"]:
        first, ours = (pq.read_table(tmp_path / name / "items.parquet").to_pylist() for name in ("a", "b"))
        scores = [[item["score"] for item in side if item["task"] == entry["task"]] for side in (ours, first)]
        assert entry["difference"]["value"] == pytest.approx(sum(scores[0]) / len(scores[0]) - sum(scores[1]) / len(scores[1]))
    with pytest.raises(ConfigError, match=r"compare_with: .* holds no items\.parquet"):
        run(settings(model, validation, suite=suite, compare_with=str(tmp_path)), [], tmp_path / "c")


def test_answers_that_do_not_fit_the_context_are_refused_with_the_task(model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=["fidelity"], languages=["gl"])
    with pytest.raises((ConfigError, DataError), match=r"fidelity_gl: .*answers of 128 tokens.*context.*96"):
        run(settings(model, validation, suite=suite), [], tmp_path / "out")
