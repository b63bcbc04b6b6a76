import importlib.util
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from iberlm.core.errors import ResourceError
from iberlm.train.activation import transform_layers
from iberlm.train.attention import SDPA, VARLEN
from iberlm.train.config import ModelConfig
from iberlm.train.hardware import CHUNKED, PLAIN, Choices
from iberlm.train.model import materialise
from iberlm.train.training_model import TrainingModel, build_training_model

from .conftest import VOCABULARY, tiny

LAYERS = 3
ATTENTION = {"_scaled_dot_product_flash_attention_for_cpu", "document_attention"}


def made(kind: str, attention: str = SDPA, compiled: bool = False, loss: str = PLAIN) -> TrainingModel:
    config = tiny(activation_checkpointing=kind, model=ModelConfig(hidden_size=32, layers=LAYERS, heads=4, kv_heads=2, ffn_size=64, initializer_range=0.2))
    choices = Choices("fp32", compiled, attention, loss, ())
    module = build_training_model(config, VOCABULARY, choices, 2)
    names = list(module.state_dict())
    transform_layers(module, config, choices)
    materialise(module, torch.device("cpu"), 0)
    assert list(module.state_dict()) == names
    return module


def batch() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (2, 33), generator=generator)
    positions = torch.cat([torch.arange(13), torch.arange(19)]).expand(2, -1)
    return tokens[:, :-1], tokens[:, 1:], positions, torch.zeros(2, 32, dtype=torch.int64), torch.tensor(1 / 64)


def trained(module: TrainingModel, autocast: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss, _ = module(*batch())
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("attention", [SDPA, VARLEN])
@pytest.mark.parametrize("kind", ["selective", "full"])
def test_checkpointing_changes_no_bit(kind: str, attention: str, autocast: bool) -> None:
    loss, gradients = trained(made("none", attention), autocast)
    same, found = trained(made(kind, attention), autocast)
    assert torch.equal(loss, same)
    assert gradients.keys() == found.keys()
    assert all(torch.equal(gradients[name], found[name]) for name in gradients)


class Counted(TorchDispatchMode):
    """How often attention and matrix products ran."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.products = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        self.attention += name in ATTENTION
        self.products += name == "mm"
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize("attention", [SDPA, VARLEN])
def test_selective_recomputes_neither_products_nor_attention_and_full_both(attention: str) -> None:
    counts = {}
    for kind in ("none", "selective", "full"):
        with Counted() as counted:
            trained(made(kind, attention))
        counts[kind] = (counted.attention, counted.products)
    products = LAYERS * 7
    assert counts["none"][0] == LAYERS
    assert counts["selective"] == counts["none"]
    # the last product of a layer is not needed again: recomputing stops before it
    assert counts["full"] == (2 * LAYERS, counts["none"][1] + products - LAYERS)


def test_checkpointing_keeps_less() -> None:
    def saved(kind: str) -> int:
        sizes: dict[int, int] = {}
        module = made(kind)
        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if (pointer := tensor.untyped_storage().data_ptr()) not in own:
                sizes[pointer] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = module(*batch())
        assert kept
        return sum(sizes.values())

    # what selective keeps lies in its cache, out of sight of these hooks: see the products above
    assert saved("full") < saved("none") / 3


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile asks, and hides the answer by other means
def test_compiled_layers_share_one_graph_and_have_the_same_gradients() -> None:
    loss, gradients = trained(made("none", VARLEN, loss=CHUNKED))
    for kind in ("none", "selective"):
        torch._dynamo.reset()
        counters.clear()
        same, found = trained(made(kind, VARLEN, compiled=True, loss=CHUNKED))
        assert counters["stats"]["unique_graphs"] == 2  # a layer, and the softmax of the cross-entropy
        assert not counters["graph_break"]
        torch.testing.assert_close(loss, same)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="for machines without torchao")
def test_fp8_without_torchao_is_refused() -> None:
    config = tiny()
    choices = Choices("fp8", False, SDPA, PLAIN, ())
    with pytest.raises(ResourceError, match="torchao"):
        transform_layers(build_training_model(config, VOCABULARY, choices, 1), config, choices)
