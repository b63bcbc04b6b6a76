import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from iberlm.core.errors import ConfigError, ResourceError
from iberlm.core.ranks import run_ranks
from iberlm.train.attention import EAGER, FLEX, IMPLEMENTATION, SDPA, VARLEN
from iberlm.train.config import ModelConfig, ObjectiveConfig
from iberlm.train.data import IGNORED
from iberlm.train.hardware import CHUNKED, PLAIN, Choices
from iberlm.train.model import materialise
from iberlm.train.training_model import TrainingModel, build_training_model, decoder_layers, group_sums, has_linear_head, prove_masking

from .conftest import tiny

LENGTH, VOCABULARY, GROUPS = 48, 64, 3
SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
SHAPES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZE, num_key_value_heads=2, intermediate_size=64),
    "qwen3": Qwen3Config(**SIZE, num_key_value_heads=2, intermediate_size=64, head_dim=16),
    "gpt_neox": GPTNeoXConfig(**SIZE, intermediate_size=64),
    "gemma2": Gemma2Config(**SIZE, num_key_value_heads=2, intermediate_size=64, head_dim=16, pad_token_id=0, sliding_window=64),
}
CPU = torch.device("cpu")
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def model_of(shape: PreTrainedConfig, kind: str = SDPA, loss: str = CHUNKED, masking: bool = True, z_loss: float = 0.0, seed: int = 0) -> TrainingModel:
    torch.manual_seed(seed)
    causal = AutoModelForCausalLM.from_config(shape, attn_implementation=EAGER if kind == EAGER else IMPLEMENTATION)
    return TrainingModel(causal, groups=GROUPS, attention_kind=kind, cross_entropy_kind=loss, document_masking=masking, z_loss=z_loss)


def packed(*lengths: int, seed: int = 0) -> Batch:
    """Inputs, targets, positions and groups of two rows, the first of documents of these lengths, the second of one document."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (2, LENGTH + 1), generator=generator)
    inputs, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    positions = torch.stack([torch.cat([torch.arange(length) for length in lengths]), torch.arange(LENGTH)])
    for end in itertools.accumulate(lengths[:-1]):
        targets[0, end - 1] = IGNORED  # nothing predicts the next document
    return inputs, targets, positions, torch.randint(0, GROUPS, inputs.shape, generator=generator)


KINDS = [("llama", SDPA), ("llama", VARLEN), ("llama", EAGER), ("qwen3", SDPA), ("qwen3", VARLEN), ("gpt_neox", VARLEN), ("gemma2", EAGER)]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_no_token_sees_another_document(name: str, kind: str) -> None:
    model = model_of(SHAPES[name], kind, PLAIN)
    inputs, targets, positions, _ = packed(15, 20, 13)
    before = model.token_losses(inputs, targets, positions).view(2, LENGTH)
    for begin, end in ((0, 15), (15, 35), (35, LENGTH)):
        changed = inputs.clone()
        changed[0, begin:end] = (changed[0, begin:end] + 1 + torch.arange(end - begin)) % VOCABULARY
        after = model.token_losses(changed, targets, positions).view(2, LENGTH)
        others = torch.ones(LENGTH, dtype=torch.bool)
        others[begin:end] = False
        assert torch.equal(after[0, others], before[0, others])
        assert torch.equal(after[1], before[1])
        seen = (after[0, begin:end] != before[0, begin:end]) | (targets[0, begin:end] == IGNORED)
        assert seen.float().mean() > 0.9


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_packed_row_is_its_documents_each_alone(name: str, kind: str) -> None:
    model, lengths, scale = model_of(SHAPES[name], kind, CHUNKED if kind != EAGER else PLAIN, z_loss=0.01), (15, 20, 13), torch.tensor(0.1)
    inputs, targets, positions, groups = (part[:1] for part in packed(*lengths))
    loss, sums = model(inputs, targets, positions, groups, scale)
    loss.backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    total, alone = torch.zeros(()), torch.zeros(2, GROUPS)
    for end, length in zip(itertools.accumulate(lengths), lengths, strict=True):
        part = slice(end - length, end)
        one, counted = model(inputs[:, part], targets[:, part], torch.arange(length)[None], groups[:, part], scale)
        one.backward()
        total, alone = total + one.detach(), alone + counted
    torch.testing.assert_close(loss.detach(), total)
    torch.testing.assert_close(sums, alone)
    assert len(gradients) == len(list(model.parameters()))
    for key, value in model.named_parameters():
        torch.testing.assert_close(gradients[key], value.grad, rtol=1e-4, atol=1e-6)


def test_more_documents_than_promised_spoil_the_step() -> None:
    model, batch, scale = model_of(SHAPES["llama"], VARLEN), packed(15, 20, 13), torch.tensor(1.0)
    expected, _ = model(*batch, scale)
    assert torch.equal(model(*batch, scale, documents=4)[0], expected)
    assert model(*batch, scale, documents=3)[0].isnan()


def test_flex_attention_has_the_losses_of_sdpa() -> None:
    inputs, targets, positions, _ = packed(15, 20, 13)
    expected = model_of(SHAPES["llama"], SDPA).token_losses(inputs, targets, positions)
    with torch.no_grad():
        found = model_of(SHAPES["llama"], FLEX).token_losses(inputs, targets, positions)
    torch.testing.assert_close(found, expected)


def test_positions_begin_again_with_each_document() -> None:
    # absolute positions, which GPT-2 learns, would tell; rotary ones are relative
    model = model_of(GPT2Config(**SIZE, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    inputs, targets, positions, _ = packed(24, 24)
    inputs[0, 24:], targets[0, 24:-1] = inputs[0, :24], targets[0, :23]
    losses = model.token_losses(inputs, targets, positions).view(2, 2, 24)
    torch.testing.assert_close(losses[0, 1, :-1], losses[0, 0, :-1])


@pytest.mark.parametrize("loss", [PLAIN, CHUNKED])
def test_without_masking_the_loss_is_that_of_transformers(loss: str) -> None:
    model = model_of(SHAPES["llama"], SDPA, loss, masking=False)
    inputs, targets, _, groups = packed(LENGTH)
    positions = torch.arange(LENGTH).expand(2, -1)
    found, sums = model(inputs, targets, positions, groups, torch.tensor(1 / targets.numel()))
    logits = model.causal(input_ids=inputs).logits
    torch.testing.assert_close(found, cross_entropy(logits.flatten(0, 1), targets.flatten()))
    assert sums[1].sum().item() == targets.numel()


def test_the_z_loss_is_minimised_and_not_shown() -> None:
    inputs, targets, positions, groups = packed(15, 33)
    scale = torch.tensor(0.5)
    for loss in (PLAIN, CHUNKED):
        without, sums = model_of(SHAPES["llama"], loss=loss)(inputs, targets, positions, groups, scale)
        model = model_of(SHAPES["llama"], loss=loss, z_loss=0.1)
        found, same = model(inputs, targets, positions, groups, scale)
        logits = model._logits(inputs, positions, model._mask(positions, None, 0))
        expected = 0.1 * 0.5 * (torch.logsumexp(logits, -1).square() * (targets.flatten() != IGNORED)).sum()
        torch.testing.assert_close(found - without, expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(same, sums)


def test_sums_are_by_group_and_do_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    losses, groups = 20 * torch.rand(10_000, generator=generator), torch.randint(0, 5, (10_000,), generator=generator)
    targets = torch.where(torch.arange(10_000) % 7 == 0, IGNORED, 1)
    losses[targets == IGNORED] = 0
    sums = group_sums(losses, targets, groups, 6)
    assert sums.dtype == torch.float32
    assert sums[1].tolist() == [((groups == group) & (targets != IGNORED)).sum().item() for group in range(6)]
    torch.testing.assert_close(sums[0], torch.stack([losses[groups == group].double().sum().float() for group in range(6)]), rtol=1e-6, atol=0)
    order = torch.randperm(10_000, generator=generator)
    assert torch.equal(group_sums(losses[order], targets[order], groups[order], 6), sums)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_in_the_sums(bad: float) -> None:
    sums = group_sums(torch.tensor([1.0, bad]), torch.tensor([1, 1]), torch.tensor([0, 1]), 3)
    assert sums[0].isnan().all()
    assert sums[1].tolist() == [1, 1, 0]


@pytest.mark.parametrize("masking", [True, False])
@pytest.mark.parametrize("loss", [PLAIN, CHUNKED])
def test_the_host_never_waits_for_the_device(masking: bool, loss: str) -> None:
    # on the meta device there is nothing to read: whoever asks for a value gets an error
    module = build_training_model(
        tiny(objective=ObjectiveConfig(document_masking=masking, z_loss=1e-4)), VOCABULARY, Choices("fp32", False, SDPA, loss, ()), GROUPS
    )
    batch = (torch.zeros(2, 32, dtype=torch.int64, device="meta") for _ in range(4))
    loss_value, sums = module(*batch, torch.ones((), device="meta"))
    loss_value.backward()
    assert sums.shape == (2, GROUPS)
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_scale_must_stay_exact() -> None:
    with pytest.raises(TypeError, match="cast"):
        model_of(SHAPES["llama"])(*packed(LENGTH), torch.ones((), dtype=torch.bfloat16))


HEADS = {
    "llama": (SHAPES["llama"], True),
    "tied": (LlamaConfig(**SIZE, intermediate_size=64, tie_word_embeddings=True), True),
    "qwen2": (Qwen2Config(**SIZE, num_key_value_heads=2, intermediate_size=64), True),
    "gpt_neox": (SHAPES["gpt_neox"], True),
    "gpt2": (GPT2Config(**SIZE), True),
    "gemma": (GemmaConfig(**SIZE, num_key_value_heads=2, intermediate_size=64, head_dim=8, pad_token_id=0), True),
    "gemma2": (SHAPES["gemma2"], False),
    "cohere": (CohereConfig(**SIZE, num_key_value_heads=2, intermediate_size=64, pad_token_id=0, logit_scale=0.1), False),
    "granite": (GraniteConfig(**SIZE, num_key_value_heads=2, intermediate_size=64, logits_scaling=8.0), False),
    "phi": (PhiConfig(**SIZE, intermediate_size=64), False),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_more_than_a_matrix_are_found(name: str) -> None:
    shape, linear = HEADS[name]
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(shape, attn_implementation=SDPA)
    assert has_linear_head(causal) == linear
    assert len(decoder_layers(causal)) == 2


def losses_of(model: TrainingModel) -> Callable[..., torch.Tensor]:
    return lambda inputs, targets, positions: model(inputs, targets, positions, reduce=False)


PROOF: dict[str, Any] = {"vocabulary_size": VOCABULARY, "rows": 2, "sequence_length": LENGTH, "device": CPU}


@pytest.mark.parametrize("kind", [SDPA, VARLEN])
def test_masking_is_proved_before_training(kind: str) -> None:
    assert prove_masking(losses_of(model_of(SHAPES["llama"], kind)), **PROOF) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prove_masking(losses_of(model_of(SHAPES["llama"], kind)), **PROOF) == 0


def test_a_leak_is_refused() -> None:
    with pytest.raises(ResourceError, match="do not keep documents apart"):
        prove_masking(losses_of(model_of(SHAPES["llama"], masking=False)), **PROOF)


def test_a_mask_that_hides_everything_is_refused() -> None:
    with pytest.raises(ResourceError, match="does not see its own document"):
        prove_masking(lambda inputs, targets, positions: inputs.flatten().float(), **PROOF)


def test_the_settings_decide_what_is_built() -> None:
    config = tiny(objective=ObjectiveConfig(document_masking=False, z_loss=0.5))
    module = build_training_model(config, VOCABULARY, Choices("fp32", False, VARLEN, CHUNKED, ()), 7, bos=1, eos=2, pad=3)
    assert (module.groups, module.attention_kind, module.cross_entropy_kind, module.document_masking, module.z_loss) == (7, VARLEN, CHUNKED, False, 0.5)
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert all(name.startswith("causal.model.") or name == "causal.lm_head.weight" for name in module.state_dict())
    assert (module.causal.config.bos_token_id, module.causal.config.eos_token_id, module.causal.config.pad_token_id) == (1, 2, 3)


def test_tied_embeddings_stay_tied() -> None:
    config = tiny(model=ModelConfig(hidden_size=32, layers=1, ffn_size=64, tie_embeddings=True))
    module = build_training_model(config, VOCABULARY, Choices("fp32", False, SDPA, CHUNKED, ()), GROUPS)
    materialise(module, CPU, 0)
    assert module.causal.lm_head.weight is module.causal.model.embed_tokens.weight
    module(*packed(15, 33), torch.tensor(1.0))[0].backward()
    assert module.causal.lm_head.weight.grad is not None


def test_a_sliding_window_and_documents_cannot_be_had_together(tmp_path: Path) -> None:
    shape = Gemma3TextConfig(**SIZE, num_key_value_heads=2, intermediate_size=64, head_dim=8, sliding_window=16, pad_token_id=0)
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / "gemma")
    choices = Choices("fp32", False, SDPA, CHUNKED, ())
    with pytest.raises(ConfigError, match=r"sliding window \(16\)"):
        build_training_model(tiny(initial_model=str(tmp_path / "gemma")), VOCABULARY, choices, GROUPS)
    config = tiny(initial_model=str(tmp_path / "gemma"), objective=ObjectiveConfig(document_masking=False))
    module = build_training_model(config, VOCABULARY, choices, GROUPS)
    materialise(module, CPU, 0, str(tmp_path / "gemma"))
    inputs, targets, positions, _ = packed(LENGTH)
    found = module.token_losses(inputs, targets, positions)
    logits = AutoModelForCausalLM.from_pretrained(tmp_path / "gemma")(input_ids=inputs).logits
    torch.testing.assert_close(found, cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none"))


def test_the_loss_is_the_same_inside_sharded_and_replicated_models(tmp_path: Path) -> None:
    # of sizes that two ranks do not divide
    shape = Qwen2Config(**SIZE | {"vocab_size": 301}, num_key_value_heads=2, intermediate_size=65, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
    run_ranks("tests.train.training_model_ranks", [str(tmp_path)], 2)
    assert (tmp_path / "done").is_file()
