"""What the store answers, and what it must not: data that were mended, weights of the same size, another type of number, answers that are missing."""

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from safetensors.torch import load_file, save_file

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import sha256_file
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.evaluate.asked import Asked
from iberlm.evaluate.backends import Slices
from iberlm.evaluate.backends.config import BackendConfig
from iberlm.evaluate.backends.transformers import open_backend
from iberlm.evaluate.catalogue import task_facts
from iberlm.evaluate.command import command_of, suite_words
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.contamination import seen_items
from iberlm.evaluate.engine import Evaluated, evaluate_tasks
from iberlm.evaluate.evaluate import run
from iberlm.evaluate.fingerprint import checksum, model_dtype, model_files, model_key
from iberlm.evaluate.results import language_table
from iberlm.evaluate.store.journal import Journal
from tests.evaluate.local_tasks import TASKS, asked, write_tasks


def evaluated(model: Path, store: Path, tasks: list[Asked], **changes: Any) -> Evaluated:
    config = EvaluateConfig(model_folder=str(model), validation="-", store=str(store), num_fewshot=-1, batch_size=4, **changes)
    return evaluate_tasks(config, tasks)


def with_key(task: Asked, key: str) -> Asked:
    return Asked(task.facts, task.staged, task.num_fewshot, task.template, key)


def test_a_mended_answer_reaches_the_items_and_asks_the_model_nothing(plain_model: Path, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks", items=6)
    task = asked(folder, "letters")
    before = evaluated(plain_model, tmp_path / "store", [task])
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    (folder / "items.jsonl").write_text("".join(json.dumps(line | {"answer": (line["answer"] + 1) % 3}) + "\n" for line in lines))
    mended = with_key(task, "mended")
    after = evaluated(plain_model, tmp_path / "store", [mended])
    again = evaluated(plain_model, tmp_path / "store", [mended])
    assert before.computed > 0
    assert (after.computed, again.computed) == (0, 0)
    assert [item["responses"] for item in after.items] == [item["responses"] for item in before.items]
    assert [int(item["target"]) for item in after.items] == [(int(item["target"]) + 1) % 3 for item in before.items]
    assert again.items == after.items
    for found in (before, after):
        scores = [item["score"] for item in found.items]
        assert sum(scores) / len(scores) == found.results[0]["value"]
    assert evaluated(plain_model, tmp_path / "store", [task]).items == before.items


def test_every_task_comes_from_the_store_as_it_was_computed(plain_model: Path, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks", items=5)
    tasks = [asked(folder, name, cluster="passage") for name in TASKS]
    first, second = (evaluated(plain_model, tmp_path / "store", tasks) for _ in range(2))
    assert second.computed == 0
    assert first.items == second.items
    drop = ("created",)
    assert [{name: value for name, value in row.items() if name not in drop} for row in first.results] == [
        {name: value for name, value in row.items() if name not in drop} for row in second.results
    ]


def test_clean_scores_come_later_from_the_store_with_groups_and_other_metrics_first(model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=["minimal_pairs"], languages=["gl"])
    base = {"model_folder": str(model), "validation": str(validation), "suite": suite, "store": str(tmp_path / "store")}
    first = run(EvaluateConfig(**base), [], tmp_path / "first")
    items = pq.read_table(first.path("items.parquet")).to_pylist()
    (tmp_path / "decontaminate").mkdir()
    found = {"suite": "minimal_pairs_gl", "field": "good", "words": 8, "method": "exact", "ngrams": 1, "ngrams_unused": 0, "ngrams_seen": 0, "documents": 0}
    rows = [found | {"item": item["id"], "share_seen": float(number == 0), "first_documents": []} for number, item in enumerate(items)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "decontaminate/items.parquet")
    assert seen_items(tmp_path / "decontaminate", ["minimal_pairs_gl"]).share("minimal_pairs_gl", "", items[0]["id"]) == 1.0
    second = run(EvaluateConfig(**base, contamination=str(tmp_path / "decontaminate")), [], tmp_path / "second")
    results = [row for row in pq.read_table(second.path("results.parquet")).to_pylist() if row["primary"]]
    whole = next(row for row in results if not row["group"])
    assert (whole["n"], whole["clean_n"]) == (len(items), len(items) - 1)
    assert whole["clean_value"] == pytest.approx(sum(item["score"] for item in items[1:]) / (len(items) - 1))
    assert sum(row["clean_n"] for row in results if row["group"]) == len(items) - 1
    assert [item["seen"] for item in pq.read_table(second.path("items.parquet")).to_pylist()][:2] == [1.0, 0.0]


def test_a_refused_evaluation_leaves_the_earlier_table(model: Path, validation: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=["minimal_pairs"], languages=["gl"])
    base = {"model_folder": str(model), "validation": str(validation), "suite": suite}
    before = run(EvaluateConfig(**base, limit=4), [], tmp_path / "out")
    with pytest.raises(ConfigError, match="there is no 'cuda:63' here"):
        run(EvaluateConfig(**base, limit=5, device="cuda:63"), [], tmp_path / "out")
    assert sha256_file(tmp_path / "out/items.parquet") == next(output.sha256 for output in before.outputs if output.path == "items.parquet")
    assert run(EvaluateConfig(**base, limit=4), [], tmp_path / "out").key == before.key
    after = run(EvaluateConfig(**base, limit=5), [], tmp_path / "out")
    assert after.metrics["minimal_pairs"]["gl"]["n"] == 5


def test_coming_back_shows_the_table(model: Path, validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EvaluateConfig(model_folder=str(model), validation=str(validation), suite=SuiteConfig(tasks=["minimal_pairs"], languages=["gl"]), limit=4)
    shown = []
    for _ in range(2):
        run(config, [], tmp_path / "out")
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != ""


@dataclasses.dataclass
class Settings:
    """Of a stage that makes a model folder."""

    dry_run: bool = False


def test_weights_of_the_same_size_that_came_after_the_manifest_are_other_weights(model: Path, tmp_path: Path) -> None:
    def body(config: Settings, inputs: list[Manifest], out: Path, record: Record) -> None:
        shutil.copytree(model, out / "model")
        record.output(out / "model/model.safetensors")

    run_stage("pretrain", 1, body, Settings(), [], tmp_path / "pretrain")
    weights = tmp_path / "pretrain/model/model.safetensors"
    before = checksum(weights)
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    written = (tmp_path / "pretrain/manifest.json").stat().st_mtime_ns
    os.utime(weights, ns=(written, written))
    assert checksum(weights) == before  # not newer: the manifest is believed, and nothing read
    os.utime(weights, ns=(written + 1, written + 1))
    assert checksum(weights) == sha256_file(weights) != before


def test_an_adapter_in_the_folder_is_part_of_the_model(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    before = model_files(folder)
    (folder / "adapter_config.json").write_text('{"lora_alpha": 64}')
    assert model_files(folder).keys() - before.keys() == {"adapter_config.json"}


def test_the_type_of_number_is_that_of_the_weights_where_the_configuration_names_none(model: Path, validation: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    save_file(
        {name: value.to(torch.bfloat16) for name, value in load_file(folder / "model.safetensors").items()}, folder / "model.safetensors", {"format": "pt"}
    )
    described = {name: value for name, value in json.loads((folder / "config.json").read_text()).items() if name not in ("dtype", "torch_dtype")}
    (folder / "config.json").write_text(json.dumps(described))
    assert (model_dtype(folder, "auto"), model_dtype(folder, "float32")) == ("bfloat16", "float32")
    config = EvaluateConfig(model_folder=str(folder), validation=str(validation), suite=SuiteConfig(tasks=["minimal_pairs"], languages=["gl"]), limit=2)
    assert pq.read_table(run(config, [], tmp_path / "out").path("results.parquet"))["dtype"][0].as_py() == "bfloat16"
    assert model_key(folder) != model_key(model)


def test_a_process_without_weights_says_that_answers_are_missing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "j")
    with pytest.raises(ResourceError, match="answers are missing in the journal"):
        Slices(journal, computes=False).take(["a"], 1, lambda: [1])


def test_equal_slices_have_answers_of_their_own_and_a_seed_that_follows_from_their_place(tmp_path: Path) -> None:
    seeds: list[int] = []

    def asked_three_times(journal: Journal) -> list[Any]:
        slices = Slices(journal, random_seed=5)

        def compute() -> list[Any]:
            seeds.append(slices.seed)
            return [slices.seed]

        return [slices.take(["same"], 1, compute) for _ in range(3)]

    with Journal(tmp_path, "j") as journal:
        first = asked_three_times(journal)
        assert len({answer for (answer,) in first}) == 3
        assert asked_three_times(journal) == first
    assert len(seeds) == 3


def test_sampled_answers_are_the_same_again_and_the_limit_may_have_another_name(plain_model: Path, tmp_path: Path) -> None:
    def generated(folder: Path, **settings: Any) -> list[str]:
        config = EvaluateConfig(model_folder=str(plain_model), validation="-", batch_size=2)
        backend = open_backend(config)
        requests = [Instance("generate_until", {}, ("Bon dia", {"until": ["\n"], **settings}), 0, metadata=("t", number, 1)) for number in range(5)]
        with Journal(folder, "j") as journal:
            return list(backend.answer("generate_until", requests, Slices(journal, random_seed=3)))

    sampled = [generated(tmp_path / name, do_sample=True, temperature=1.5, max_new_tokens=6) for name in ("a", "b")]
    assert sampled[0] == sampled[1]
    assert len(set(sampled[0])) > 1
    with pytest.raises(ConfigError, match="answers of 96 tokens, and the model's context has 96"):
        generated(tmp_path / "c", max_new_tokens=96)


@pytest.mark.parametrize("batch", [{"batch_size": 3}, {"batch_size": 0, "batch_tokens": 100}])
def test_only_what_is_scored_is_put_through_a_softmax(batch: dict[str, int], plain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long and cut prompts, answers of one token that share a prompt, and longer ones: against the likelihoods of lm-eval's own model."""
    prompts = ["Bon dia", "La casa del riu és molt gran. " * 3, "El mercat obri a les huit. " * 20]
    pairs = [(prompt, answer) for prompt in prompts for answer in (" a", " e", " que obri cada matí")]
    requests = [Instance("loglikelihood", {}, pair, number, metadata=("t", number, 1)) for number, pair in enumerate(pairs)]
    backend = open_backend(EvaluateConfig(model_folder=str(plain_model), validation="-", **batch))
    lm, widths = backend.lm, []
    plain = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, backend="causal", batch_size=3, softmax_dtype="float32")
    expected = plain.loglikelihood(requests, disable_tqdm=True)
    call = lm._model_call

    def observed(inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = call(inputs)
        widths.append((logits.shape[1], inputs.shape[1]))
        return logits

    monkeypatch.setattr(lm, "_model_call", observed)
    with Journal(tmp_path, "j") as journal:
        found = backend.answer("loglikelihood", requests, Slices(journal))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=0 if batch["batch_size"] else 1e-5, abs=0)
    assert all(scored < given for scored, given in widths)
    assert min(scored / given for scored, given in widths) < 0.5


BATCHES = [{"batch_size": 1}, {"batch_size": 4}, {"batch_size": 0, "batch_tokens": 8192}]


def by_hand(model: Any, context: list[int], answer: list[int]) -> float:
    """Log-likelihood of the tokens of an answer, from one forward pass of its own."""
    tokens = [*context, *answer][-(model.config.max_position_embeddings + 1) :]
    with torch.no_grad():
        logs = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    return float(logs[-len(answer) :].gather(1, torch.tensor(answer)[:, None]).sum())


@pytest.mark.parametrize("batch", BATCHES)
def test_the_same_tokens_cut_in_two_ways_are_scored_each_as_it_is_cut(batch: dict[str, int], plain_model: Path, tmp_path: Path) -> None:
    """lm-eval reads the shorter answer off the first places of the longer one."""
    words = " la casa del riu és molt gran i el mercat obri cada dia".split(" ")[1:]
    cuts = [3, 6, 6, 9, 11]
    requests = []
    for number, cut in enumerate(cuts):
        answer = "".join(f" {word}" for word in words[cut:])
        requests.append(Instance("loglikelihood", {}, ("".join(f" {word}" for word in words[:cut]), answer), number, metadata=("t", number, 1)))
    lm = (backend := open_backend(EvaluateConfig(model_folder=str(plain_model), validation="-", **batch))).lm
    tokens = [lm._encode_pair(*request.args) for request in requests]
    assert len({(*context, *answer) for context, answer in tokens}) < len(tokens)
    with Journal(tmp_path, "j") as journal:
        found = backend.answer("loglikelihood", requests, Slices(journal))
    assert [value for value, _ in found] == pytest.approx([by_hand(lm.model, *pair) for pair in tokens], rel=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
def test_documents_that_repeat_themselves_have_the_bits_of_their_windows(batch: dict[str, int], plain_model: Path, tmp_path: Path) -> None:
    """Their last window, with a long context, has the tokens of a full one."""
    documents = ["Hola " * 80, "\t" * 250, "ab " * 3, "x", "á" * 20, "Hola " * 80]
    requests = [Instance("loglikelihood_rolling", {}, (text,), number, metadata=("t", number, 1)) for number, text in enumerate(documents)]
    lm = (backend := open_backend(EvaluateConfig(model_folder=str(plain_model), validation="-", **batch))).lm
    expected = []
    for text in documents:
        tokens = lm.tok_encode(text, add_special_tokens=False)
        windows = get_rolling_token_windows(token_list=tokens, prefix_token=lm.prefix_token_id, max_seq_len=lm.max_length, context_len=1)
        expected.append(sum(by_hand(lm.model, *make_disjoint_window(window)) for window in windows))
    with Journal(tmp_path, "j") as journal:
        found = backend.answer("loglikelihood_rolling", requests, Slices(journal))
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_mean_leaves_out_tasks_without_an_interval() -> None:
    row = {"group": "", "primary": True, "language": "gl", "averaged": True, "chance": 0.0, "best": 1.0, "higher_is_better": None, "measures": "reading"}
    row |= {"value": 0.5, "stderr": 0.1, "low": 0.3, "high": 0.7, "n": 120, "clusters": 120}
    rows = [row | {"task": "good"}, row | {"task": "one_passage", "low": None, "high": None}, row | {"task": "nan", "value": float("nan")}]
    found = language_table(rows)["gl"]
    assert (found["value"], found["tasks"]) == (50.0, ["good"])
    assert found["left_out"] == [{"task": name, "why": "no interval"} for name in ("one_passage", "nan")]


@pytest.mark.parametrize("folder", ["plain/model-1.5", "m=1", "m é", "a,b(c){d}", "it's", "back\\slash'", "[x]", "100%", "ends\\"])
def test_the_command_is_one_that_hydra_reads_back(folder: str) -> None:
    config = EvaluateConfig(model_folder=folder, validation=folder, suite=SuiteConfig(tasks=["reading"], licences={"reading_gl": "CC-BY-4.0 AND MIT"}))
    program, verb, *overrides = shlex.split(command_of(config, task_facts("reading_gl")))
    assert (program, verb) == ("iberlm", "evaluate")
    read = {entry.key_or_group: entry.value() for entry in OverridesParser.create().parse_overrides(overrides)}
    assert read["model"] == folder
    assert read["suite.tasks"] == ["reading"]
    assert read["suite.licences"] == {"reading_gl": "CC-BY-4.0 AND MIT"}


def test_a_server_is_named_in_the_command_and_its_key_is_not() -> None:
    backend = BackendConfig(kind="openai", url="http://127.0.0.1:8000/v1", model="org/name", revision="a b,c", context_tokens=4096)
    words = shlex.split(command_of(EvaluateConfig(suite=SuiteConfig(tasks=["reading"]), backend=backend), task_facts("reading_gl")))
    read = {entry.key_or_group: entry.value() for entry in OverridesParser.create().parse_overrides(words[2:])}
    assert (read["backend.revision"], read["backend.context_tokens"], read["backend.url"]) == ("a b,c", 4096, "http://127.0.0.1:8000/v1")


def test_the_prefetch_that_is_advised_is_of_what_was_asked() -> None:
    suite = SuiteConfig(name="sample", tasks=["copa"], languages=["ca"], upstream={"eu": ["belebele_eus_Latn"]})
    assert suite_words(suite) == ["suite.tasks=[copa]", "suite.languages=[ca]", "+suite.upstream={eu: [belebele_eus_Latn]}"]


def test_a_document_without_bytes_has_no_score(plain_model: Path, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks", items=3)
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    lines[1]["text"] = ""
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        found = evaluated(plain_model, tmp_path / "store", [asked(folder, "documents")])
    except DataError as error:
        assert "documents" in str(error)  # noqa: PT017 - either is told, and neither is a crash
    else:
        assert (found.items[1]["score"], found.items[1]["weight"]) == (None, 0.0)


def test_a_model_with_the_scores_of_another_is_asked_about(model: Path, validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = shutil.copytree(model, tmp_path / "twin")
    described = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(described | {"_name_or_path": "another name"}))
    suite = SuiteConfig(tasks=["minimal_pairs"], languages=["es", "ca", "gl"])
    for folder in (model, twin):
        run(
            EvaluateConfig(model_folder=str(folder), validation=str(validation), suite=suite, store=str(tmp_path / "store"), limit=6),
            [],
            tmp_path / f"of-{folder.name}",
        )
    said = capsys.readouterr().err
    assert said.count("are they one model?") == 1
    assert "have the same score on 3 of 3 tasks (minimal_pairs_ca, minimal_pairs_es, minimal_pairs_gl)" in said
