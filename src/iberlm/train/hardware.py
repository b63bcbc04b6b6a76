"""What the machine decides: precision, compilation, attention kernel, cross-entropy. Each choice has a line that says why.

What a recipe asks for and the machine lacks falls back, and the line says so; only fp8 is refused, since a run that was
planned for it would not fit its time without.
"""

import ctypes
import importlib.util
import os
import platform
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from iberlm.core.errors import ResourceError
from iberlm.core.process import usable_cores
from iberlm.train.attention import FLEX, SDPA, VARLEN, varlen_missing
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import AUTO, ZERO3
from iberlm.train.cross_entropy import liger_missing
from iberlm.train.weights import read_json

FP32, BF16, FP8 = "fp32", "bf16", "fp8"
PLAIN, CHUNKED, LIGER = "plain", "chunked", "liger"
COMPILE_STEPS = 100
"""On a GPU, compilation (about a minute) pays for itself in fewer steps than this."""
COMPILE_SECONDS = 600.0
"""On a CPU, in runs that would take longer than this."""
CORE_FLOPS = {FP32: 40e9, BF16: 90e9}
"""What a processor core is taken to do in training, per second: measured on a Xeon with AMX, a model of 8.4 million parameters."""
PLAIN_BYTES = 1 << 24
"""Logits of a micro batch up to this size in float32 are made at once."""


@dataclass(frozen=True)
class Choices:
    """What was chosen for this machine."""

    precision: str
    """fp32, bf16 or fp8."""
    compile: bool
    attention: str
    """sdpa, flex or varlen."""
    cross_entropy: str
    """plain, chunked or liger."""
    reasons: tuple[str, ...]
    """Lines to print, one a choice."""


def choose(config: PretrainConfig, device: torch.device, *, parameters: int, vocabulary_size: int) -> Choices:
    """Choose for `device`. Raises `ResourceError` for fp8 where it cannot be had, with what is missing."""
    precision, why_precision = _precision(config.precision, device)
    compiled, why_compiled = _compile(config, device, precision, parameters)
    attention, why_attention = _attention(config, device, precision)
    cross_entropy, why_cross_entropy = _cross_entropy(config, device, vocabulary_size)
    reasons = (
        f"precision {precision}: {why_precision}",
        f"compile {'on' if compiled else 'off'}: {why_compiled}",
        f"attention {attention}: {why_attention}",
        f"cross-entropy {cross_entropy}: {why_cross_entropy}",
    )
    return Choices(precision, compiled, attention, cross_entropy, reasons)


def keep_freed_memory(device: torch.device) -> bool:
    """Have the C library keep what a CPU run frees for its next step, instead of giving it back and having it cleared anew; whether it does.

    Tensors of some megabytes would else be mapped and zeroed page by page, several hundred times a step. Linux with glibc only.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # malloc.h: M_MMAP_MAX = -4, M_TRIM_THRESHOLD = -1
    return bool(library.mallopt(-4, 0)) and bool(library.mallopt(-1, (1 << 31) - 1))


def _precision(asked: str, device: torch.device) -> tuple[str, str]:
    fast, why = _bf16(device)
    if asked == FP32:
        return FP32, "as set"
    if asked == FP8:
        if missing := _fp8_missing(device):
            raise ResourceError(f"precision: fp8 cannot be had here: {missing}; set precision=bf16")
        return FP8, f"as set, scaled 8-bit products in the decoder layers, the rest bf16, on {torch.cuda.get_device_name(device)}"
    if asked == BF16 and not fast:
        if device.type == "cpu":
            return BF16, f"as set, though slow: {why}; precision=fp32 would be faster"
        return FP32, f"bf16 was asked for and cannot be had: {why}"
    return (BF16, why) if fast else (FP32, why)


def _bf16(device: torch.device) -> tuple[bool, str]:
    """Whether the device multiplies bf16 natively, and how that is known."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        native = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
        return native, f"{name} {'multiplies bf16 natively' if native else 'has no bf16 units (compute capability 8.0 and later have)'}"
    if device.type != "cpu":
        return False, f"nothing is known of bf16 on {device.type}"
    return bf16_units(cpu_flags())


def bf16_units(flags: set[str]) -> tuple[bool, str]:
    """Whether a processor with these instruction sets multiplies bf16 itself, and which of them say so."""
    found = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return bool(found), f"the processor multiplies bf16 natively ({', '.join(found)})" if found else "the processor has no bf16 units (AVX512_BF16, AMX)"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Instruction sets of the processor, as Linux names them; empty elsewhere."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())


def _fp8_missing(device: torch.device) -> str:
    if device.type != "cuda":
        return f"8-bit products need a GPU and this is {device.type}"
    if torch.version.hip is None and (found := torch.cuda.get_device_capability(device)) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} has compute capability {found[0]}.{found[1]}, and 8-bit products need 8.9"
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed (`pip install torchao`)"
    return ""


def _compile(config: PretrainConfig, device: torch.device, precision: str, parameters: int) -> tuple[bool, str]:
    if config.compile == "off":
        return False, "as set"
    if config.strategy.name == ZERO3:
        return False, "zero3 gathers each matrix as it is used, which torch.compile cannot see through" + _asked_for(config.compile)
    if missing := _compiler_missing(device):
        return False, missing + _asked_for(config.compile)
    if config.compile == "on":
        return True, "as set, each decoder layer"
    steps = config.total_steps
    if device.type != "cpu":
        return steps >= COMPILE_STEPS, f"{steps} steps are {'enough' if steps >= COMPILE_STEPS else 'too few'} to pay for it (from {COMPILE_STEPS} on)"
    readers = int(os.environ.get("WORLD_SIZE", "1"))
    rate = CORE_FLOPS[FP32 if precision == FP32 else BF16] * usable_cores()
    seconds = 6 * parameters * steps * config.global_batch_tokens / rate / (readers / _ranks_here(readers))
    return (
        seconds > COMPILE_SECONDS,
        f"the run would take about {max(seconds / 60, 0.1):,.1f} minutes without (6 x parameters x tokens at {rate / 1e9:,.0f} GFLOP/s), "
        f"{'more' if seconds > COMPILE_SECONDS else 'less'} than the {COMPILE_SECONDS / 60:.0f} from which on it pays",
    )


def _asked_for(setting: str) -> str:
    return "" if setting == AUTO else f" ({setting} was asked for)"


def _ranks_here(world: int) -> int:
    """Ranks that share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))


def _compiler_missing(device: torch.device) -> str:
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "triton, by which torch compiles for GPUs, is not installed"
    if device.type != "cpu":
        return f"not tried on {device.type}"
    return cpp_compiler_missing(os.environ.get("CXX", "g++"))


def cpp_compiler_missing(compiler: str) -> str:
    """Why torch cannot compile for the CPU with this C++ compiler; empty when a small library of the same needs compiles."""
    include = sysconfig.get_path("include")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cpp"
        source.write_text("#include <Python.h>\n#include <omp.h>\n#include <cmath>\nint threads() { return omp_get_max_threads(); }\n", encoding="utf-8")
        command = [*compiler.split(), "-shared", "-fPIC", "-fopenmp", f"-I{include}", str(source), "-o", str(source.with_suffix(".so"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"torch compiles with {compiler}, which cannot be run ({error})"
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if "error" in line] or [f"status {done.returncode}"]
    return f"torch compiles with {compiler}, which fails here ({errors[0].strip()})"


def _attention(config: PretrainConfig, device: torch.device, precision: str) -> tuple[str, str]:
    asked = config.attention
    if not config.objective.document_masking:
        return SDPA, "causal without document masking, which its fastest kernels do" + (
            "" if asked in (AUTO, SDPA) else f" ({asked} was asked for, and has no use)"
        )
    if asked == SDPA:
        return SDPA, "as set"
    no_varlen = varlen_missing(_head_size(config), device)
    if not no_varlen and precision == FP32 and device.type != "cpu":
        no_varlen = "FlashAttention needs bf16"
    no_flex = "" if device.type == "cuda" else "FlexAttention trains on GPUs only"
    if asked in (AUTO, VARLEN) and not no_varlen:
        return VARLEN, "each document alone, in FlashAttention" + (", as set" if asked == VARLEN else "")
    if asked == AUTO:
        return (SDPA, f"with a mask ({no_varlen}; {no_flex})") if no_flex else (FLEX, f"{no_varlen}; FlexAttention leaves out blocks between documents")
    missing = no_varlen if asked == VARLEN else no_flex
    if not missing:
        return FLEX, "as set"
    return (SDPA if no_flex else FLEX), f"{asked} was asked for and cannot be had: {missing}"


def _head_size(config: PretrainConfig) -> int:
    if not config.initial_model:
        return config.model.hidden_size // config.model.heads
    settings = read_json(Path(config.initial_model) / "config.json")
    return int(settings.get("head_dim") or settings.get("hidden_size", 0) // max(1, settings.get("num_attention_heads", 1)))


def _cross_entropy(config: PretrainConfig, device: torch.device, vocabulary_size: int) -> tuple[str, str]:
    asked = config.objective.cross_entropy
    if config.strategy.name == ZERO3:
        return PLAIN, "zero3 gathers the output layer only while it is called" + ("" if asked in (AUTO, PLAIN) else f" ({asked} was asked for)")
    if asked in (PLAIN, CHUNKED):
        return asked, "as set"
    if asked == LIGER:
        missing = liger_missing(device)
        return (CHUNKED, f"liger was asked for and cannot be had: {missing}") if missing else (LIGER, "as set")
    size = 4 * config.micro_batch_size * config.sequence_length * vocabulary_size
    shown = f"the logits of a micro batch would take {size / 2**20:,.0f} MiB in float32"
    return (CHUNKED, shown) if size > PLAIN_BYTES else (PLAIN, f"{shown} only")
