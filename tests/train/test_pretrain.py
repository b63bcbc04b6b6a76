import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from iberlm.core.errors import ConfigError, CorruptError, DataError, IberlmError
from iberlm.core.manifest import Manifest
from iberlm.core.token_store import open_shard
from iberlm.train import pretrain
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import (
    CanariesConfig,
    CheckpointConfig,
    MixtureConfig,
    MonitorConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ReplayConfig,
)

from .conftest import VOCABULARY, make_store, tiny


@pytest.fixture(scope="module")
def trained(inputs: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    config = tiny(steps=30, optimizer=OptimizerConfig(learning_rate=2e-2), checkpoint=CheckpointConfig(every_steps=0), validate_every_steps=10)
    return pretrain.run(config, inputs, tmp_path_factory.mktemp("trained"))


def test_it_learns_and_writes_down_every_step(trained: Manifest) -> None:
    lines = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert set(lines[0]) == {
        *("step", "block", "tokens", "targets", "loss", "losses", "lr", "grad_norm", "applied", "tokens_per_second", "seconds"),
        *("data_wait", "mfu", "memory_bytes", "watt_hours"),
    }
    assert [line["block"] for line in lines] == list(range(30))
    assert all(line["applied"] and line["mfu"] is None for line in lines), "nobody knows the peak of this processor"
    assert lines[-1]["tokens"] == trained.metrics["tokens"] == 30 * 256
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert trained.metrics["final_loss"] == lines[-1]["loss"]
    validations = [json.loads(line) for line in (trained.folder / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in validations] == [10, 20, 30]
    assert validations[-1]["validation"] == trained.metrics["validation"]


def test_bits_a_byte_are_those_of_the_saved_model(trained: Manifest, inputs: list[Manifest]) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(trained.folder / "model"))
    store = inputs[0]
    for tag, found in trained.metrics["validation"].items():
        shards = [open_shard(path.with_suffix("")).tokens for path in store.paths(f"validation/{tag.replace('-', '_')}-", ".bin")]
        tokens = torch.cat([torch.from_numpy(shard.astype("int64")) for shard in shards])
        nats = 0.0
        for start in range(0, len(tokens) - 1, 32):
            window = tokens[start : start + 33]
            begins = [0, *(index for index in range(1, len(window) - 1) if window[index] == 0)]
            for begin, end in itertools.pairwise([*begins, len(window) - 1]):  # each document alone
                with torch.no_grad():
                    logits = model(window[None, begin:end]).logits[0]
                following = window[begin + 1 : end + 1]
                kept = (following != 0) & (following != 1)  # BOS and EOS: the ends of documents are no text
                nats += cross_entropy(logits[kept], following[kept], reduction="sum").item()
        assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / store.metrics["bytes"]["validation"][tag], rel=1e-4)


def test_the_model_folder_loads_as_hugging_face_expects(trained: Manifest) -> None:
    folder = trained.folder / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(str(folder)), AutoTokenizer.from_pretrained(str(folder))
    assert sum(parameter.numel() for parameter in model.parameters()) == trained.metrics["parameters"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 1
    assert model.config.bos_token_id == 0
    generations = json.loads((trained.folder / "generations.json").read_text())
    assert [entry["language"] for entry in generations] == ["es", "ca-valencia"]
    assert all(entry["text"].startswith(entry["prompt"]) and len(entry["text"]) > len(entry["prompt"]) for entry in generations)
    assert list((trained.folder / "tensorboard").glob("events.*"))


def test_a_finished_run_is_skipped_whatever_the_micro_batch(trained: Manifest, inputs: list[Manifest]) -> None:
    config = tiny(
        steps=30, optimizer=OptimizerConfig(learning_rate=2e-2), checkpoint=CheckpointConfig(every_steps=0), validate_every_steps=10, micro_batch_size=8
    )
    assert pretrain.run(config, inputs, trained.folder).finished == trained.finished


def test_accumulation_changes_nothing_but_rounding(inputs: list[Manifest], tmp_path: Path) -> None:
    many, one = (pretrain.run(tiny(micro_batch_size=size, tracker="none"), inputs, tmp_path / str(size)) for size in (1, 8))
    assert many.metrics["final_loss"] == pytest.approx(one.metrics["final_loss"], rel=1e-4)


def test_bf16_trains_too(inputs: list[Manifest], tmp_path: Path) -> None:
    manifest = pretrain.run(tiny(precision="bf16", saved_precision="bf16", tracker="none"), inputs, tmp_path)
    assert manifest.metrics["strategy"]["precision"] == "bf16"
    assert manifest.metrics["final_loss"] < 5.5
    assert AutoModelForCausalLM.from_pretrained(str(tmp_path / "model")).dtype == torch.bfloat16


def test_a_limited_validation_estimates_the_bytes(inputs: list[Manifest], tmp_path: Path) -> None:
    manifest = pretrain.run(tiny(validation_tokens=128, tracker="none"), inputs, tmp_path)
    for value in manifest.metrics["validation"].values():
        assert 0 < value["bits_per_byte"] < 8


def test_a_store_whose_files_disagree_is_corrupt(inputs: list[Manifest], own_store: Callable[[dict[str, int]], Manifest], tmp_path: Path) -> None:
    store = own_store({"es": 20})
    index = store.folder / "train/es-00000.idx"
    data = bytearray(index.read_bytes())
    data[34] ^= 1  # the length of the first document: sizes stay, contents disagree
    index.write_bytes(data)
    with pytest.raises(CorruptError, match=r"es-00000\.bin: \d+ bytes where es-00000.idx says"):
        pretrain.run(tiny(verify_store="sizes"), [store, inputs[1]], tmp_path / "run")


def test_a_store_cut_short_is_corrupt(inputs: list[Manifest], own_store: Callable[[dict[str, int]], Manifest], tmp_path: Path) -> None:
    store = own_store({"es": 20})
    path = store.folder / "train/es-00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorruptError, match=r"es-00001\.bin: \d+ bytes where manifest.json says"):
        pretrain.run(tiny(), [store, inputs[1]], tmp_path / "run")


def test_tokens_of_another_tokenizer_are_refused(inputs: list[Manifest], own_store: Callable[[dict[str, int]], Manifest], tmp_path: Path) -> None:
    store = own_store({"es": 20})
    value = json.loads((store.folder / "manifest.json").read_text())
    value["metrics"]["vocabulary_size"] = 999
    (store.folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(CorruptError, match=r"made with a vocabulary of 999, and the tokenizer given has 300"):
        pretrain.run(tiny(), [store, inputs[1]], tmp_path / "run")


def test_a_language_without_a_window_is_named(inputs: list[Manifest], tmp_path: Path) -> None:
    store = make_store(tmp_path / "tokenize", inputs[1], {"es": 20, "eu": 1})
    config = tiny(sequence_length=64, global_batch_tokens=256, mixture=MixtureConfig(kind="uniform", languages=["es", "eu"]))
    with pytest.raises(DataError, match=r"'eu' has .* fewer than one sample"):
        pretrain.run(config, [store, inputs[1]], tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_batch_tokens": 250}, r"global_batch_tokens: 250 is not a multiple of sequence_length \(32\); nearest: 224, 256"),
        ({"sequence_length": 128}, r"sequence_length: 128 is above model.max_position_embeddings \(64\)"),
        ({"steps": 0, "tokens_total": 100}, r"steps: give steps, or a tokens_total of at least global_batch_tokens"),
        ({"schedule": {"warmup_steps": 6}}, r"schedule: 6 warm-up steps are not below the number of steps \(6\)"),
        ({"precision": "fp16"}, r"precision: unknown value 'fp16'; choose among auto, fp32, bf16, fp8"),
        ({"device": "tpu"}, r"device: unknown value 'tpu'; choose among auto, cuda, cpu"),
        ({"phases": [{"until": 0.5}, {"until": 0.4}]}, r"phases: until=\[0.5, 0.4\]; each must be above the one before, and the last 1"),
        ({"checkpoint": {"keep_best": 1, "every_steps": 3}, "validate_every_steps": 2}, r"keep_best: 1 needs a validation at every checkpoint"),
        ({"canaries": {"canaries_each": 1}}, r"canaries: prefix_tokens \+ suffix_tokens \(64\) are more than sequence_length \(32\)"),
        ({"replay": {"share": 0.5}}, r"replay: share=0.5 with tokens=''; give both, or neither"),
        ({"objective": {"goldfish_k": 1}}, r"goldfish_k: 1 would leave out every token"),
        ({"strategy": {"name": "ddp", "tensor": 2}}, r"strategy.tensor: 2 with strategy=ddp; it goes with fsdp2 and hsdp"),
        ({"faults": {"straggler_ratio": 0.5}}, r"faults.straggler_ratio: 0.5; it must be above 1, or 0 for never"),
        ({"monitor": {"hooks": ["nonsense"]}}, r"monitor.hooks: 'nonsense' is not package.module:function"),
        ({"monitor": {"profile_steps": [5, 2]}}, r"monitor.profile_steps: \[5, 2\]; give \[first, last\], counted from 1"),
        ({"prompts": {"val": "Bon dia"}}, r"prompts: unknown language 'val'.*write 'ca-valencia'"),
        ({"model": {"heads": 3}}, r"model.hidden_size: 32 is not a multiple of model.heads \(3\)"),
        ({"model": {"heads": 4, "kv_heads": 3}}, r"model.kv_heads: model.heads \(4\) is not a multiple of 3"),
    ],
)
def test_a_wrong_setting_is_named_with_its_choices(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(tiny()), settings))


def test_steps_follow_from_the_tokens() -> None:
    assert tiny(steps=0, tokens_total=256 * 7 + 100).total_steps == 7
    assert isinstance(tiny(), PretrainConfig)
    assert VOCABULARY == 300


HOOK = """
def longest(context):
    return {"step": context.step, "languages": len(context.validation)}
"""


def test_all_that_can_be_watched_is_written(inputs: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_hooks.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tiny(
        steps=8,
        optimizer=OptimizerConfig(kind="muon", learning_rate=5e-3),
        objective=ObjectiveConfig(goldfish_k=4, goldfish_context=3, z_loss=1e-4, cross_entropy="chunked"),
        canaries=CanariesConfig(repetitions=[1, 4], canaries_each=1, prefix_tokens=6, suffix_tokens=6),
        checkpoint=CheckpointConfig(every_steps=2, keep_last=1, keep_every_steps=4, keep_best=1),
        monitor=MonitorConfig(profile_steps=[2, 3], generate_every_steps=4, hooks=["my_hooks:longest"], peak_tflops=0.1),
        activation_checkpointing="full",
        validate_every_steps=2,
    )
    manifest = pretrain.run(config, inputs, tmp_path / "run")
    out = manifest.folder
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["mfu"] < 1 for line in lines)  # of a slow step it is rounded to 0
    assert max(line["mfu"] for line in lines) > 0
    assert 0.6 < sum(line["targets"] for line in lines) / (8 * 256) < 0.85, "about a quarter of the tokens is left out of the loss"
    assert [(json.loads(line)["step"], json.loads(line)["language"]) for line in (out / "samples.jsonl").read_text().splitlines()] == [
        (step, tag) for step in (4, 8) for tag in ("es", "ca-valencia")
    ]
    assert list((out / "profile").glob("rank-0*"))
    best = min((json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()), key=_mean_bits)["step"]
    assert {int(path.name[5:]) for path in (out / "checkpoints").iterdir()} == {4, 8, best}
    assert json.loads((out / "memorisation.json").read_text()) == manifest.metrics["memorisation"]
    assert manifest.metrics["mfu"]["peak_tflops"] == 0.1
    assert manifest.metrics["energy"]["method"].startswith(("estimated", "measured"))
    events = EventAccumulator(str(next((out / "tensorboard").rglob("events.*")).parent)).Reload()
    assert {"loss", "grad_norm", "loss/eu", "validation/eu/bits_per_byte", "hook/longest/languages"} <= set(events.Tags()["scalars"])
    assert json.loads((out / "state.json").read_text())["step"] == 8


def _mean_bits(line: dict[str, Any]) -> float:
    values = [value["bits_per_byte"] for value in line["validation"].values()]
    return sum(values) / len(values)


def test_a_model_is_gone_on_with_from_its_folder(trained: Manifest, inputs: list[Manifest], tmp_path: Path) -> None:
    """Continued pretraining with replay of the old text: it begins where the model was, and its own text stays in the mixture."""
    new = make_store(tmp_path / "tokenize", inputs[1], {"eu": 40})
    config = tiny(
        initial_model=str(trained.folder / "model"),
        replay=ReplayConfig(tokens=str(inputs[0].folder), share=0.25, mixture=MixtureConfig(kind="uniform", languages=["es"])),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        tracker="none",
    )
    manifest = pretrain.run(config, [new, inputs[1], inputs[0], trained], tmp_path / "run")
    first = json.loads((manifest.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] < 4.5, "from random weights it would be near ln 300 = 5.7"
    assert manifest.metrics["mixture"] == pytest.approx({"eu": 0.75, "replay:es": 0.25})
    assert manifest.metrics["validation"]["eu"]["loss"] < trained.metrics["validation"]["eu"]["loss"]


def test_a_model_of_another_tokenizer_is_not_gone_on_with(trained: Manifest, inputs: list[Manifest], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained.folder / "model", folder)
    value = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = value["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(IberlmError, match=r"resize-embeddings"):
        pretrain.run(tiny(initial_model=str(folder)), inputs, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"initial_model: .*nowhere has no config.json that can be read"):
        pretrain.run(tiny(initial_model=str(tmp_path / "nowhere")), inputs, tmp_path / "run2")


def test_the_width_rule_reaches_weights_and_rates(inputs: list[Manifest], tmp_path: Path) -> None:
    """A model of half the width at which the rate was tuned: matrices of the layers begin larger and learn twice as fast, the rest as without."""
    plain, ruled = (
        pretrain.run(
            tiny(steps=4, optimizer=OptimizerConfig(learning_rate=1e-9, reference_hidden_size=width), tracker="none"), inputs, tmp_path / str(width)
        ).folder
        for width in (0, 64)
    )
    weights = [load_file(folder / "model/model.safetensors") for folder in (plain, ruled)]
    for name, before in weights[0].items():
        ratio = 2**0.5 if "proj" in name else 1.0
        torch.testing.assert_close(weights[1][name], before * ratio, rtol=1e-4, atol=1e-6)
