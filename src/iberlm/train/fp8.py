"""8-bit floating-point products in the decoder layers, by torchao: weights, inputs and gradients are scaled by their largest value and
rounded to 8 bits just before each product; weights and sums stay as they are (Micikevicius et al., 2022, arXiv:2209.05433)."""

from typing import Any

from torch import nn

from iberlm.core.errors import ResourceError

MULTIPLE = 16
"""The products need both dimensions of a matrix to be multiples of this."""


def convert(layer: nn.Module) -> int:
    """Have the linear maps of `layer` multiply in 8 bits, in place; returns how many do. Matrices of other sizes stay as they are.

    `ResourceError` without torchao.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ResourceError(f"precision: fp8 needs torchao, which cannot be imported ({error}); `pip install torchao`, or set precision=bf16") from error
    changed: list[str] = []

    def fits(module: nn.Module, name: str) -> bool:
        fine = isinstance(module, nn.Linear) and module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0
        changed.extend([name] * fine)
        return fine

    settings: Any = Float8LinearConfig.from_recipe_name("tensorwise")
    convert_to_float8_training(layer, config=settings, module_filter_fn=fits)
    return len(changed)
