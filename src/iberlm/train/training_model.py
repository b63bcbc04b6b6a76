"""What is trained: a Hugging Face causal model with its loss inside, so that the strategies' hooks see one call a micro batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from iberlm.core.errors import ConfigError, ResourceError
from iberlm.core.needs import local_folder
from iberlm.train import attention, cross_entropy
from iberlm.train.config import PretrainConfig
from iberlm.train.data import IGNORED
from iberlm.train.hardware import CHUNKED, LIGER, PLAIN, Choices
from iberlm.train.initial import read_configuration, say_once
from iberlm.train.model import llama_config

_FIXED_POINT = 2.0**24


class TrainingModel(nn.Module):
    """A causal model that returns its loss; state-dict names are "causal." + Hugging Face's."""

    def __init__(
        self,
        causal: PreTrainedModel,
        *,
        groups: int,
        attention_kind: str,
        cross_entropy_kind: str,
        document_masking: bool,
        z_loss: float,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.groups = groups
        self.attention_kind = attention_kind
        self.cross_entropy_kind = cross_entropy_kind
        self.document_masking = document_masking
        self.z_loss = z_loss
        self.kernel: cross_entropy.Kernel = cross_entropy.gradient_kernel
        if compiled and cross_entropy_kind == CHUNKED:
            self.kernel = cross_entropy.compiled_kernel()

    def forward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        positions: torch.Tensor,
        groups: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        whole_positions: torch.Tensor | None = None,
        *,
        reduce: bool = True,
        documents: int = 0,
    ) -> Any:
        """Loss and sums of a micro batch; or, with reduce=False, the loss of each token.

        inputs, targets (IGNORED where not counted), positions, groups: int64[rows, S]; `whole_positions` int64[rows, W] under
        context parallelism, where the others are this rank's columns. `scale` float32[]. `documents`: an upper bound of the
        documents in the micro batch, known to the host (see `attention.documents_limit`), without which variable-length attention
        on a GPU wastes time on documents that could have been; 0: unknown. Where there are more, the loss is NaN.

        Returns (loss float32[] = scale * sum over targets of cross-entropy + z_loss * logsumexp^2, sums float32[2, G]: summed
        cross-entropy and number of targets by group, detached, the same bits whatever order a device adds in); or float32[rows * S],
        0 where IGNORED. Nothing in here waits for the device.
        """
        mask = self._mask(positions, whole_positions, documents)
        flat = targets.flatten()
        if not reduce:
            return self._token_losses(inputs, positions, mask, flat)
        if groups is None or scale is None:
            raise TypeError("forward needs groups and scale unless reduce=False")
        if scale.dtype != torch.float32:
            raise TypeError(f"scale is {scale.dtype}: a wrapper has cast it, and the loss would lose its precision; let it cast no inputs")
        if self.cross_entropy_kind == PLAIN:
            loss, losses = cross_entropy.plain(self._logits(inputs, positions, mask), flat, scale, self.z_loss)
        else:
            hidden, weight = self._hidden(inputs, positions, mask), self._head()
            if self.cross_entropy_kind == LIGER:
                loss, losses = cross_entropy.liger(hidden, weight, flat, scale, self.z_loss)
            else:
                loss, losses = cross_entropy.chunked(hidden, weight, flat, scale, self.z_loss, self.kernel)
        if documents and mask is not None:
            # more documents than the host promised would run into each other: such a step must not count
            loss = torch.where(((positions if whole_positions is None else whole_positions) == 0).sum() > documents, float("nan"), loss)
        return loss, group_sums(losses, flat, groups.flatten(), self.groups)

    def token_losses(self, inputs: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each token in nats, float32[rows * S], 0 where IGNORED. Of a wrapped model call forward(..., reduce=False)."""
        losses: torch.Tensor = self(inputs, targets, positions, reduce=False)
        return losses

    def _token_losses(self, inputs: torch.Tensor, positions: torch.Tensor, mask: attention.Mask, targets: torch.Tensor) -> torch.Tensor:
        if self.cross_entropy_kind == PLAIN:
            return cross_entropy.plain(self._logits(inputs, positions, mask), targets, torch.ones((), device=inputs.device), 0.0)[1]
        return cross_entropy.token_losses(self._hidden(inputs, positions, mask), self._head(), targets)

    def _mask(self, positions: torch.Tensor, whole_positions: torch.Tensor | None, documents: int) -> attention.Mask:
        if not self.document_masking:
            return None
        # attention sees the whole sequence under context parallelism too (of some heads)
        positions = positions if whole_positions is None else whole_positions
        if self.attention_kind == attention.FLEX:
            return attention.block_mask(positions)
        if self.attention_kind == attention.VARLEN:
            return attention.cumulative_lengths(positions, documents)
        allowed = attention.dense_mask(positions)
        return allowed if self.attention_kind == attention.SDPA else attention.additive_mask(allowed, torch.float32)

    def _hidden(self, inputs: torch.Tensor, positions: torch.Tensor, mask: attention.Mask) -> torch.Tensor:
        hidden: torch.Tensor = self.causal.base_model(input_ids=inputs, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1)

    def _head(self) -> torch.Tensor:
        weight: torch.Tensor = self.causal.get_output_embeddings().weight
        if isinstance(weight, DTensor):
            raise ResourceError("the output layer is split over ranks where its loss is computed; set objective.cross_entropy=plain")
        return weight

    def _logits(self, inputs: torch.Tensor, positions: torch.Tensor, mask: attention.Mask) -> torch.Tensor:
        logits: torch.Tensor = self.causal(input_ids=inputs, attention_mask=mask, position_ids=positions, use_cache=False).logits
        if isinstance(logits, DTensor):
            logits = logits.full_tensor()
        return logits.flatten(0, 1)


def group_sums(losses: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
    """Sum of `losses` and number of targets by group, float32[2, count], from float32[N], int64[N], int64[N].

    Added as integers of 2^-24 nats: a GPU adds in no fixed order, and float32 sums would differ from run to run in their last bits.
    A loss that is not finite makes all sums NaN.
    """
    with torch.no_grad():
        sums = torch.zeros(2, count, dtype=torch.int64, device=losses.device)
        sums[0].index_add_(0, groups, (losses.double() * _FIXED_POINT).round().long())
        sums[1].index_add_(0, groups, (targets != IGNORED).long())
        total = losses.sum()
        return torch.stack([(sums[0].double() / _FIXED_POINT).float() + (total - total), sums[1].float()])


def build_training_model(
    config: PretrainConfig, vocabulary_size: int, choices: Choices, groups: int, *, bos: int | None = None, eos: int | None = None, pad: int | None = None
) -> TrainingModel:
    """The model to train on the meta device: of the shape `config.model`, or of the folder `config.initial_model`. `materialise` gives it weights.

    Raises `ConfigError` and `DataError` for a folder that cannot be trained (see `initial.read_configuration`).
    """
    if config.initial_model:
        folder = local_folder(config.initial_model, config.cluster)
        shape: PreTrainedConfig = read_configuration(folder, sequence_length=config.sequence_length, vocabulary_size=vocabulary_size)
    else:
        shape = llama_config(config.model, vocabulary_size, bos=bos, eos=eos, pad=pad)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(shape)]
    masking, (kind, why) = config.objective.document_masking, attention.kind_for(architecture, shape, choices.attention)
    if why:
        say_once(f"pretrain: {architecture.__name__}: attention {kind} instead of {choices.attention}: {why}")
    implementation = attention.EAGER if kind == attention.EAGER else attention.IMPLEMENTATION
    if (size := attention.window(shape)) is not None and config.sequence_length > size:
        if masking:
            raise ConfigError(
                f"sequence_length: {config.sequence_length} is above the sliding window ({size}) of {config.initial_model}, which cannot be had together with "
                f"document masking; set sequence_length={size} or less, or objective.document_masking=false"
            )
        implementation = attention.SDPA if implementation == attention.IMPLEMENTATION else implementation  # transformers makes the masks
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(shape, attn_implementation=implementation, dtype=torch.float32)
    loss = choices.cross_entropy
    if loss != PLAIN and not has_linear_head(causal):
        say_once(f"pretrain: {architecture.__name__} does more to its logits than one matrix product: cross-entropy plain instead of {loss}")
        loss = PLAIN
    return TrainingModel(
        causal,
        groups=groups,
        attention_kind=kind,
        cross_entropy_kind=loss,
        document_masking=masking,
        z_loss=config.objective.z_loss,
        compiled=choices.compile,
    )


@torch.no_grad()
def has_linear_head(causal: PreTrainedModel) -> bool:
    """Whether logits are the product of the decoder's output and one matrix, and nothing else; asked of a model on the meta device.

    Seen rather than looked up: in a forward pass the logits must be the very tensor that the output layer returned, and what
    it was given must be the decoder's output itself.
    """
    head = causal.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return False
    seen: dict[str, Any] = {}
    handles = [
        head.register_forward_hook(lambda module, given, result: seen.update(given=given[0], logits=result)),
        causal.base_model.register_forward_hook(lambda module, given, result: seen.update(hidden=result[0])),
    ]
    try:
        ids, mask = torch.zeros(1, 8, dtype=torch.int64, device="meta"), torch.zeros(1, 1, 8, 8, device="meta")  # a mask, or it would read from the device
        logits = causal(input_ids=ids, attention_mask=mask, use_cache=False).logits
    except (RuntimeError, NotImplementedError):  # it looks at values, which there are none of on the meta device
        return False
    finally:
        for handle in handles:
            handle.remove()
    if not seen.keys() >= {"given", "hidden", "logits"} or logits is not seen["logits"]:
        return False
    given, hidden = seen["given"], seen["hidden"]
    return given.shape == hidden.shape and given.untyped_storage()._cdata == hidden.untyped_storage()._cdata


def decoder_layers(causal: PreTrainedModel) -> nn.ModuleList:
    """The layers of the decoder, in order. `ConfigError` for a model that has no such list."""
    count = causal.config.num_hidden_layers
    for child in causal.base_model.children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return child
    raise ConfigError(f"initial_model: {type(causal).__name__} has no list of {count} decoder layers; choose a model of another architecture")


@torch.no_grad()
def prove_masking(
    token_losses: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    vocabulary_size: int,
    rows: int,
    sequence_length: int,
    device: torch.device,
    part: Callable[[torch.Tensor], torch.Tensor] = lambda columns: columns,
) -> float:
    """Show on the real device that no token sees another document; `ResourceError` when one does.

    `token_losses(inputs, targets, positions)`, int64[rows, S] each, is the wrapped model's forward(..., reduce=False); under
    context parallelism it takes the whole sequence, and `part` gives the columns whose losses it returns. Three passes over rows
    of two documents: as they are; with another first document, which must change nothing in the second; with the first half
    of the second changed, which must change its second half, or else nothing would have been proved. All ranks call this alike.

    Returns the largest change of a loss across documents in nats (0 with most kernels).
    """
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, vocabulary_size, (rows, sequence_length + 1), generator=generator)
    other = (tokens + 1 + torch.randint(0, vocabulary_size - 1, tokens.shape, generator=generator)) % vocabulary_size
    first = sequence_length // 3 + 1  # at no multiple of a kernel's block
    middle = (first + sequence_length) // 2
    columns = torch.arange(sequence_length)
    positions = torch.where(columns < first, columns, columns - first).expand(rows, -1).contiguous().to(device)

    def losses(changed: slice) -> torch.Tensor:
        inputs = tokens.clone()
        inputs[:, changed] = other[:, changed]
        return token_losses(inputs[:, :-1].contiguous().to(device), tokens[:, 1:].contiguous().to(device), positions).float()

    base, leaked, seen = losses(slice(0)), losses(slice(0, first)), losses(slice(first, middle))
    later = part((columns >= middle).expand(rows, -1)).flatten().to(device)
    second = part((columns >= first).expand(rows, -1)).flatten().to(device)
    across = torch.where(second, (leaked - base).abs(), 0.0).max()
    within = torch.where(later, (seen - base).abs(), 0.0).max()
    across_nats, within_nats, any_later = float(across), float(within), bool(later.any())
    if any_later and not within_nats > 0:
        raise ResourceError("document masking: a token does not see its own document; set attention=sdpa, or objective.document_masking=false")
    # scaled 8-bit products round by the largest value of all tokens, so there another document is felt in the rounding
    if not across_nats <= (0.2 * within_nats if any_later else 1e-3):
        raise ResourceError(
            f"document masking: a token's loss changes by {across_nats:.2g} nats with the text of another document (by {within_nats:.2g} with its own); "
            "the attention kernels of this machine do not keep documents apart: set attention=sdpa, or objective.document_masking=false"
        )
    return across_nats
