"""Memory of one device in training, by strategy: what is kept from step to step, and what a micro step needs at its worst moment.

**Kept.** Weights and the sums of the optimiser are fp32: 4 bytes a parameter for weights, 4 for gradients, 8 for Adam's two moments (Muon: one, 4). Each
strategy keeps all of them, or its share (Rajbhandari et al., 2020, arXiv:1910.02054).

**Activations** of a layer, bytes a token, with h the width, a = heads x head size, k = kv heads x head size and f the inner width of the feed-forward. In
bf16, nothing recomputed and compiled: 10h + 8a + 6f (two norms' inputs and results, queries, keys, values and result of attention, with keys and values
repeated for each query head; gate, product and their inner values) and 4 a head for flash attention's sums. It is Korthikanti et al. (2022,
arXiv:2205.05198, section 4.1) for SwiGLU without biases, without dropout and without the scores, which flash attention does not keep. The coefficients were
counted: they are the tensors that autograd saves for this very model, and a test counts them again. Not compiled, more of the norms and of the feed-forward
is kept. `selective` keeps the results of matrix products and attention, `full` the layer's input; what is recomputed exists for one layer at a time. Under
autocast (single, ddp) what runs between the layers is fp32.

Tensor parallelism divides a, k and f, not h: norms and what lies between layers are whole on each rank. Context parallelism divides the tokens.

What is assumed, not derived: the room for CUDA, NCCL and the allocator's losses.
"""

from dataclasses import dataclass

from iberlm.train.config_groups import AUTO, DDP, DEEPSPEED, MUON, SINGLE, ZERO1, ZERO2, ZERO3
from iberlm.train.flops import Shape, layer_matrices
from iberlm.train.machines import GIB
from iberlm.train.mesh import Layout

CONTEXT_BYTES = 2 * GIB
"""Assumed: libraries' own memory on a GPU."""
FRAGMENTATION = 0.04
"""Assumed: what the allocator cannot use, as a share of the rest."""
PLAIN_BYTES = 1 << 24
"""As in `hardware`: float32 logits of a micro batch up to this size are made at once."""
CHUNK_BYTES = 1 << 28
"""As in `cross_entropy`: logits that exist at once."""
DEFERRED_SHARE = 0.1
"""As in `strategy`: whole gradients up to this share of a device are kept until the last micro step."""
DEEPSPEED_BUCKET, DEEPSPEED_LIVE = 500_000_000, 1_000_000_000
"""Elements: DeepSpeed's default reduce_bucket_size, and stage3_max_live_parameters."""

_KEPT = {
    # (activation_checkpointing, compiled): bytes a token in bf16 for each of h, a, k, f; what autocast adds, for h
    ("none", True): (10, 8, 0, 6, 2),
    ("none", False): (18, 8, 0, 8, 10),
    ("selective", True): (4, 4, 4, 4, 2),
    ("selective", False): (6, 4, 4, 4, 2),
    ("full", True): (2, 0, 0, 0, 2),
    ("full", False): (2, 0, 0, 0, 2),
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the memory of a step depends on, beside the model."""

    strategy: str
    layout: Layout
    micro_batch_size: int
    sequence_length: int
    accumulation: int
    deferred: bool
    """fully_shard keeps whole gradients until the last micro step."""
    activation_checkpointing: str
    cross_entropy: str
    optimizer: str
    precision: str
    """fp32, bf16 or fp8 (whose activations are counted as bf16)."""
    compiled: bool

    @property
    def autocast(self) -> bool:
        """Whether weights are fp32 in the forward pass and cast for each product."""
        return self.precision != "fp32" and self.strategy in (SINGLE, DDP)

    @property
    def tokens(self) -> int:
        """Of one device in a micro step."""
        return self.micro_batch_size * self.sequence_length // self.layout.cp


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device."""

    parameters: int
    gradients: int
    moments: int
    """The optimiser's, and under DeepSpeed its fp32 weights."""
    copies: int
    """Weights gathered or cast for computing, gradients on their way to other ranks: at the worst moment."""
    activations: int
    logits: int
    overhead: int
    worst: str
    """The moment of the peak: "backward", or "exchange" (of the gradients of embeddings and head, when activations are gone)."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.moments + self.copies + self.activations + self.logits + self.overhead


def layer_activations(shape: Shape, step: Step) -> int:
    """Bytes a token that one layer keeps for the backward pass."""
    return _layer_bytes(shape, step, step.activation_checkpointing)


def _layer_bytes(shape: Shape, step: Step, kind: str) -> int:
    width, heads, kv, inner, cast = _KEPT[kind, step.compiled]
    tensor = step.layout.tp
    split = heads * shape.heads * shape.head_size + kv * shape.kv_heads * shape.head_size + inner * shape.ffn_size * shape.ffn_matrices / 3
    split += 4 * shape.heads if heads else 0
    count = (width + (cast if step.autocast else 0)) * shape.hidden_size + split / tensor
    return round(count * (2 if step.precision == "fp32" else 1))


def activations(shape: Shape, step: Step) -> int:
    """Bytes of all layers, and of the one that is being recomputed or differentiated."""
    return step.tokens * (shape.layers * layer_activations(shape, step) + _layer_bytes(shape, step, "none"))


def cross_entropy_kind(asked: str, strategy: str, tokens: int, vocabulary_size: int) -> str:
    """plain or chunked, as a run on a GPU would choose (its rule is in `hardware`); liger is counted as chunked."""
    if strategy == ZERO3:
        return "plain"
    if asked == AUTO:
        return "chunked" if 4 * tokens * vocabulary_size > PLAIN_BYTES else "plain"
    return "plain" if asked == "plain" else "chunked"


def logits(shape: Shape, step: Step) -> int:
    """Bytes for the output layer and its loss at their worst.

    plain: logits, their fp32 copy and its softmax (10 bytes a logit; fp32: 12). chunked: one chunk with softmax and gradient, the gradient of the head in
    fp32 with the product that is being added, and that of the hidden states.
    """
    kind = cross_entropy_kind(step.cross_entropy, step.strategy, step.tokens, shape.vocabulary_size)
    size = 4 if step.precision == "fp32" else 2
    if kind == "plain":
        return step.tokens * shape.vocabulary_size * (12 if step.precision == "fp32" else 10)
    chunk = min(CHUNK_BYTES, step.tokens * shape.vocabulary_size * size)
    head = shape.vocabulary_size * shape.hidden_size
    return chunk * (2 * size + 4) // size + head * (4 + size) + step.tokens * shape.hidden_size * size


def on_a_rank(shape: Shape, tensor: int) -> tuple[int, int]:
    """Parameters of one layer on a rank of tensor parallelism, and of everything outside the layers, which each rank has whole."""
    outside = shape.vocabulary_size * shape.hidden_size * (1 if shape.tied else 2) + shape.vectors
    return layer_matrices(shape) // tensor + shape.layer_vectors, outside


def defers(shape: Shape, tensor: int, device_bytes: float) -> bool:
    """Whether fully_shard keeps whole gradients between micro steps on devices of so many bytes (the rule is in `strategy`)."""
    layer, outside = on_a_rank(shape, tensor)
    return 4 * (shape.layers * layer + outside) <= DEFERRED_SHARE * device_bytes


def _moments(shape: Shape, step: Step) -> int:
    layer, outside = on_a_rank(shape, step.layout.tp)
    if step.optimizer != MUON:
        return 8 * (shape.layers * layer + outside)
    return 4 * shape.layers * layer_matrices(shape) // step.layout.tp + 8 * (shape.layers * shape.layer_vectors + outside)


def estimate(shape: Shape, step: Step) -> Memory:
    """Memory of one device."""
    layer, outside = on_a_rank(shape, step.layout.tp)
    whole = shape.layers * layer + outside
    moments = _moments(shape, step)
    size = 4 if step.precision == "fp32" else 2
    backward = activations(shape, step) + logits(shape, step)
    exchange = 0  # copies at the end of the backward pass, where that is worse
    if step.strategy in (SINGLE, DDP):
        parameters, gradients = 4 * whole, 4 * whole
        # autocast keeps the bf16 copy of each weight until the forward pass ends, and autograd until its backward pass
        copies = 2 * (shape.layers * layer_matrices(shape) + shape.vocabulary_size * shape.hidden_size) if step.autocast else 0
    elif step.strategy in DEEPSPEED:
        parameters, gradients, moments, copies = _deepspeed(step, whole, moments, size)
    else:  # fully_shard: each layer a unit, everything outside the layers another one
        shards = step.layout.dp_shard * step.layout.cp
        parameters, gradients, moments = 4 * whole // shards, 4 * whole // shards, moments // shards
        if step.accumulation > 1 and step.deferred:
            gradients += 4 * whole
        # two layers gathered and a third on its way, its gradient and the fp32 form in which it is exchanged; the outer unit stays gathered
        copies = layer * (3 * size + size + 4) + outside * size
        exchange = outside * (2 * size + 4)
    worst = "backward"
    if exchange > copies + backward:
        worst, copies = "exchange", exchange
    kept = (activations(shape, step), logits(shape, step)) if worst == "backward" else (0, 0)
    used = parameters + gradients + moments + copies + sum(kept)
    return Memory(
        parameters=parameters,
        gradients=gradients,
        moments=moments,
        copies=copies,
        activations=kept[0],
        logits=kept[1],
        overhead=round(CONTEXT_BYTES + FRAGMENTATION * used),
        worst=worst,
    )


def _deepspeed(step: Step, whole: int, moments: int, size: int) -> tuple[int, int, int, int]:
    """Parameters, gradients, moments with fp32 weights, and buffers of DeepSpeed's stages, with sums of gradients in fp32."""
    ranks = step.layout.world
    own = (moments + (4 * whole if size == 2 else 0)) // ranks
    bucket = min(whole, DEEPSPEED_BUCKET) * (size + 4)
    if step.strategy == ZERO1:
        return size * whole, (4 + size) * whole, own, bucket
    if step.strategy == ZERO2:
        return size * whole, 4 * whole // ranks, own, bucket
    return size * whole // ranks, 4 * whole // ranks, own, bucket + size * min(whole, DEEPSPEED_LIVE)


def into_a_node(shape: Shape, step: Step, devices_a_node: int) -> int:
    """Bytes that must come into each node over the network in a step, at least; 0 where the strategy stays inside a node.

    Weights are gathered twice a micro step, in the precision of the products, and gradients are exchanged in fp32: once a step, or in each micro step. The
    devices of a node that need the same bytes fetch them once and share them inside; summing to all costs twice what summing to one part each does.
    """
    layout, size = step.layout, 4 if step.precision == "fp32" else 2
    if layout.world <= devices_a_node:
        return 0
    layer, outside = on_a_rank(shape, layout.tp)
    whole = shape.layers * layer + outside
    if step.strategy not in (*DEEPSPEED, SINGLE, DDP):
        micro, sums = step.accumulation, 1 if step.deferred else step.accumulation
        gathered = (2 * shape.layers * layer + outside) * size * micro + 4 * whole * sums
        shards = layout.dp_shard * layout.cp
        within = shards * layout.tp <= devices_a_node
        copies = 8 * whole // shards * min(devices_a_node, shards * layout.tp) if layout.dp_replicate > 1 else 0
        return copies + (0 if within else gathered * min(layout.tp, devices_a_node))
    if step.strategy in (SINGLE, DDP):
        return 8 * whole
    if step.strategy == ZERO1:
        return (8 + size) * whole
    return (size if step.strategy == ZERO2 else 2 * size * step.accumulation) * whole + 4 * whole * step.accumulation
