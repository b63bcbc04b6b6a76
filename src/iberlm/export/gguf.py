"""A Llama of Hugging Face as one GGUF file, which llama.cpp and the programs built on it (Ollama, LM Studio) run on any computer.

Everything is read in blocks, written beside the final name, read back and compared, and only then renamed into place.
"""

import json
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import xxhash
from gguf import GGMLQuantizationType, LlamaFileType

from iberlm.core.config import one_of
from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import publish
from iberlm.core.progress import progress, say
from iberlm.export.chat import portable, read_chat_template
from iberlm.export.check import WrittenTensor, check_file
from iberlm.export.lineage import Lineage, read_lineage
from iberlm.export.llama import LlamaSettings, Tensor, plan_tensors, read_settings
from iberlm.export.vocabulary import Vocabulary, read_vocabulary
from iberlm.export.weights import read_weights

PRECISIONS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""Types of the matrices; vectors stay in float32, as llama.cpp wants them."""


def export_gguf(model: Path, out: Path, *, precision: str) -> None:
    """Write the model and tokenizer of the Hugging Face folder `model` to the new file `out`.

    `precision` is that of the matrices: f32, f16, bf16 or q8_0 (blocks of 32 numbers of 8 bits with a scale). Raises
    `ConfigError` for another architecture than LlamaForCausalLM, a tokenizer that llama.cpp would not reproduce, and an
    `out` that exists or does not end in .gguf; `DataError` or `CorruptError` for a folder that is no whole model; and
    `ResourceError` when the disk is full.
    """
    one_of("precision", precision, PRECISIONS)
    _check_out(out)
    config = _read_config(model)
    settings = read_settings(config, str(model / "config.json"))
    vocabulary = read_vocabulary(model, settings.vocabulary_size)
    template = read_chat_template(model)
    tensors = plan_tensors(settings, read_weights(model), str(model))
    _check_precision(tensors, precision)
    lineage = read_lineage(model)
    for note in (*vocabulary.notes, *lineage.notes):
        say(f"export: {note}")
    with publish(out) as temporary:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
        try:
            _add_origin(writer, out.stem, lineage, tensors)
            _add_settings(writer, settings, PRECISIONS[precision][1])
            _add_vocabulary(writer, vocabulary, portable(template) if template else None)
            written = _write_tensors(writer, tensors, precision)
        finally:
            writer.close()
        check_file(temporary, _arrays(vocabulary), written)
    say(f"export: {out}: {len(written)} tensors in {precision}, {len(vocabulary.tokens):,} tokens, {out.stat().st_size:,} bytes")


def _check_out(out: Path) -> None:
    if out.suffix != ".gguf":
        raise ConfigError(f"OUT: '{out}' does not end in .gguf")
    if out.exists():
        raise ConfigError(f"OUT: {out} exists already; delete it or name another file")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ConfigError(f"OUT: {out} would lie in {parent}, which is not a folder")


def _read_config(model: Path) -> dict[str, Any]:
    path = model / "config.json"
    if not model.is_dir():
        raise ConfigError(f"MODEL: {model} is not a folder; give the folder of a Hugging Face model, such as RUN_DIR/pretrain/model")
    if not path.is_file():
        inner = model / "model"
        mend = f"; did you mean {inner}?" if (inner / "config.json").is_file() else "; give the folder of a Hugging Face model, such as RUN_DIR/pretrain/model"
        if (model / "adapter_config.json").is_file():
            mend = ": it is an adapter, which has to be merged into its base first (method.merge_lora=true does that when fine-tuning)"
        raise DataError(f"MODEL: {model} has no config.json{mend}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise CorruptError(f"{path}: not a JSON object")
    return config


def _check_precision(tensors: list[Tensor], precision: str) -> None:
    if precision != "q8_0":
        return
    for tensor in tensors:
        if len(tensor.weight.shape) > 1 and tensor.weight.shape[-1] % 32:
            width = tensor.weight.shape[-1]
            raise ConfigError(f"precision: q8_0 needs rows of a multiple of 32 numbers, and '{tensor.weight.name}' has {width}; choose f16 or bf16")


def _add_origin(writer: gguf.GGUFWriter, name: str, lineage: Lineage, tensors: list[Tensor]) -> None:
    parameters = sum(prod(tensor.weight.shape) for tensor in tensors)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(parameters, parameters, 0, 0))
    writer.add_tags(["text-generation"])
    if lineage.licence:
        writer.add_license(lineage.licence)
    if lineage.languages:
        writer.add_languages(lineage.languages)
    for key, value in lineage.run.items():
        writer.add_string(f"iberlm.{key}", value)
    if lineage.cards:
        writer.add_dataset_count(len(lineage.cards))
        for index, card in enumerate(lineage.cards):
            writer.add_dataset_name(index, card)
        writer.add_array("iberlm.data_licences", [f"{card}: {licence}" for card, licence in lineage.cards.items()])


def _add_settings(writer: gguf.GGUFWriter, settings: LlamaSettings, file_type: LlamaFileType) -> None:
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(settings.layers)
    writer.add_context_length(settings.context_length)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_feed_forward_length(settings.ffn_size)
    writer.add_head_count(settings.heads)
    writer.add_head_count_kv(settings.kv_heads)
    writer.add_key_length(settings.head_dimension)
    writer.add_value_length(settings.head_dimension)
    writer.add_layer_norm_rms_eps(settings.norm_eps)
    writer.add_vocab_size(settings.vocabulary_size)
    writer.add_rope_dimension_count(settings.head_dimension)
    writer.add_rope_freq_base(settings.rope.theta)
    if settings.rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(settings.rope.settings["factor"])


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, template: str | None) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    for key, array in _arrays(vocabulary).items():
        writer.add_array(key, array)
    for role, index in vocabulary.special.items():
        getattr(writer, f"add_{role}_token_id")(index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    writer.add_remove_extra_whitespaces(False)
    if template:
        writer.add_chat_template(template)


def _arrays(vocabulary: Vocabulary) -> dict[str, list[Any]]:
    """What the file has for every token or merge, by key; a list that is empty is left out."""
    arrays: dict[str, list[Any]] = {"tokens": vocabulary.tokens, "scores": vocabulary.scores, "token_type": vocabulary.types, "merges": vocabulary.merges}
    return {f"tokenizer.ggml.{key}": array for key, array in arrays.items() if array}


def _write_tensors(writer: gguf.GGUFWriter, tensors: list[Tensor], precision: str) -> dict[str, WrittenTensor]:
    """Write header and tensors. The writer's own way to write a tensor wants it whole; here it goes into the file block by block."""
    for tensor in tensors:
        kind = _type(tensor, precision)
        size = prod(gguf.quant_shape_to_byte_shape(tensor.weight.shape, kind))
        writer.add_tensor_info(tensor.name, tensor.weight.shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (stream,) = writer.fout
    writer.write_padding(stream, stream.tell())
    written: dict[str, WrittenTensor] = {}
    with progress("export", len(tensors), "tensors") as advance:
        for tensor in tensors:
            kind, digest, size = _type(tensor, precision), xxhash.xxh3_128(), 0
            for block in tensor.blocks():
                data = _converted(block, kind, tensor).tobytes()
                stream.write(data)
                digest.update(data)
                size += len(data)
            writer.write_padding(stream, size)
            written[tensor.name] = (tensor.weight.shape, kind, digest.hexdigest())
            advance(1, tensor.name)
    return written


def _type(tensor: Tensor, precision: str) -> GGMLQuantizationType:
    return PRECISIONS[precision][0] if len(tensor.weight.shape) > 1 else GGMLQuantizationType.F32


def _converted(block: npt.NDArray[np.float32], kind: GGMLQuantizationType, tensor: Tensor) -> npt.NDArray[Any]:
    if kind == GGMLQuantizationType.F16 and np.abs(block).max(initial=0.0) > np.finfo(np.float16).max:
        raise ConfigError(f"precision: '{tensor.weight.name}' has numbers that f16 cannot hold; choose bf16 or f32")
    converted: npt.NDArray[Any] = gguf.quantize(block, kind)
    return converted
