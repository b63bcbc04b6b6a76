import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from iberlm.train import attention
from iberlm.train.attention import additive_mask, block_mask, cumulative_lengths, dense_mask, documents, documents_limit, kind_for, varlen_missing, window
from iberlm.train.document_attention import document_attention

POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 0, 1, 2, 3]])
"""Three rows: three documents, one, four (two of them of a single token)."""


def test_documents_are_numbered_in_their_row() -> None:
    assert documents(POSITIONS).tolist() == [[1, 1, 1, 2, 2, 2, 2, 3], [1] * 8, [1, 2, 3, 3, 4, 4, 4, 4]]


def test_a_token_may_see_its_own_document_before_it() -> None:
    mask = dense_mask(POSITIONS)
    assert mask.shape == (3, 1, 8, 8)
    for row, numbers in enumerate(documents(POSITIONS).tolist()):
        for query in range(8):
            for key in range(8):
                assert mask[row, 0, query, key].item() == (key <= query and numbers[key] == numbers[query])


def test_the_additive_mask_is_zero_where_one_may_see() -> None:
    mask = dense_mask(POSITIONS)
    added = additive_mask(mask, torch.bfloat16)
    assert (added == 0).equal(mask)
    assert added.min().item() == torch.finfo(torch.bfloat16).min


def test_cumulative_lengths_have_a_shape_that_the_data_does_not_decide() -> None:
    firsts = cumulative_lengths(POSITIONS.clone())
    assert firsts.shape == (1, 1, 1, 25)
    assert firsts.dtype == torch.int32
    assert firsts.flatten().tolist() == [0, 3, 7, 8, 16, 17, 18, 20] + [24] * 17
    assert cumulative_lengths(POSITIONS.clone(), limit=8).flatten().tolist() == [0, 3, 7, 8, 16, 17, 18, 20, 24]
    assert cumulative_lengths(POSITIONS.clone(), limit=10).flatten().tolist() == [0, 3, 7, 8, 16, 17, 18, 20, 24, 24, 24]


def test_the_limit_is_a_power_of_two_above_the_documents_of_any_micro_step() -> None:
    positions = torch.arange(512).expand(3, 2, -1).to(torch.int32).clone()
    assert documents_limit(positions) == 64
    positions[1, :, 10:80] = 0
    assert documents_limit(positions) == 256
    limit = documents_limit(positions)
    firsts = cumulative_lengths(positions[1].long(), limit).flatten().tolist()
    assert firsts[:143] == [*range(1), *range(10, 80), 512, *range(522, 592), 1024]
    assert len(firsts) == limit + 1


def test_a_window_that_begins_inside_a_document_begins_one() -> None:
    positions = torch.tensor([[5, 6, 0, 1]])
    assert cumulative_lengths(positions, limit=2).flatten().tolist() == [0, 2, 4]
    assert positions.tolist() == [[5, 6, 0, 1]]  # what is given is not changed
    assert dense_mask(positions)[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_the_block_mask_is_the_dense_one() -> None:
    mask = block_mask(POSITIONS)
    assert isinstance(mask, BlockMask)
    rows = torch.arange(3)[:, None, None].expand(3, 8, 8)
    queries, keys = torch.arange(8)[:, None].expand(8, 8), torch.arange(8).expand(8, 8)
    assert torch.equal(mask.mask_mod(rows, torch.tensor(0), queries, keys), dense_mask(POSITIONS)[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_documents_alone_are_documents_behind_a_mask(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value, upstream = (torch.randn(3, 8, 2, 16, generator=generator).to(dtype).transpose(1, 2) for _ in range(4))
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    expected = scaled_dot_product_attention(*inputs, attn_mask=dense_mask(POSITIONS), scale=0.3)
    found, sums = document_attention(*inputs, cumulative_lengths(POSITIONS).flatten(), 0.3)
    assert sums.shape == (3, 2, 8)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, expected, **tolerance)
    wanted = torch.autograd.grad(expected, inputs, upstream)
    for ours, theirs in zip(torch.autograd.grad(found, inputs, upstream), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_the_operation_is_what_torch_asks_of_one() -> None:
    inputs = [torch.randn(3, 8, 2, 16).transpose(1, 2).requires_grad_() for _ in range(3)]
    torch.library.opcheck(document_attention, (*inputs, cumulative_lengths(POSITIONS).flatten(), 0.3))


def test_variable_length_attention_is_for_cpus_and_new_gpus() -> None:
    assert varlen_missing(64, torch.device("cpu")) == ""
    assert "meta" in varlen_missing(64, torch.device("meta"))


def test_windows_are_found() -> None:
    assert window(LlamaConfig()) is None
    assert window(MistralConfig(sliding_window=16)) == 16
    assert window(Qwen2Config(sliding_window=16)) is None
    assert window(Qwen2Config(sliding_window=16, use_sliding_window=True, max_window_layers=0)) == 16


def test_soft_capped_scores_take_eager_attention() -> None:
    assert kind_for(LlamaForCausalLM, LlamaConfig(), "sdpa") == ("sdpa", "")
    kind, why = kind_for(Gemma2ForCausalLM, Gemma2Config(), "sdpa")
    assert kind == attention.EAGER
    assert "soft-capped" in why
