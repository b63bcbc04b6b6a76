import ctypes
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from iberlm.core.errors import ConfigError, ResourceError
from iberlm.train import hardware
from iberlm.train.config import ObjectiveConfig, ScheduleConfig, StrategyConfig
from iberlm.train.cross_entropy import liger_missing
from iberlm.train.hardware import Choices, bf16_units, choose, cpp_compiler_missing, cpu_flags, keep_freed_memory

from .conftest import tiny

CPU = torch.device("cpu")


def chosen(parameters: int = 10_000, vocabulary_size: int = 300, **settings: Any) -> Choices:
    return choose(tiny(**({"precision": "auto", "compile": "auto"} | settings)), CPU, parameters=parameters, vocabulary_size=vocabulary_size)


def reason(choices: Choices, subject: str) -> str:
    return next(line for line in choices.reasons if line.startswith(subject))


def test_every_choice_has_a_line_that_says_why() -> None:
    choices = chosen()
    assert [line.split(":")[0] for line in choices.reasons] == [
        f"precision {choices.precision}",
        f"compile {'on' if choices.compile else 'off'}",
        f"attention {choices.attention}",
        f"cross-entropy {choices.cross_entropy}",
    ]
    assert all(len(line.split(": ", 1)[1]) > 5 for line in choices.reasons)


def test_a_cpu_takes_bf16_where_it_multiplies_it(tmp_path: Path) -> None:
    native, why = bf16_units(cpu_flags())
    assert chosen().precision == ("bf16" if native else "fp32")
    assert why in reason(chosen(), "precision")
    assert chosen(precision="bf16").precision == "bf16"
    assert ("precision=fp32 would be faster" in reason(chosen(precision="bf16"), "precision")) == (not native)
    xeon, arm, old = (tmp_path / name for name in ("xeon", "arm", "old"))
    xeon.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 avx512_bf16\nprocessor\t: 1\nflags\t\t: fpu\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd bf16 sve\n")
    old.write_text("flags\t\t: fpu avx2\n")
    assert bf16_units(cpu_flags(xeon)) == (True, "the processor multiplies bf16 natively (amx_bf16, avx512_bf16)")
    assert bf16_units(cpu_flags(arm))[0]
    assert not bf16_units(cpu_flags(old))[0]
    assert not bf16_units(cpu_flags(tmp_path / "no-such-file"))[0]


def test_what_is_set_is_what_is_chosen() -> None:
    choices = chosen(precision="fp32", compile="off", attention="sdpa", objective=ObjectiveConfig(cross_entropy="chunked"))
    assert (choices.precision, choices.compile, choices.attention, choices.cross_entropy) == ("fp32", False, "sdpa", "chunked")
    assert all("as set" in line for line in choices.reasons)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_fp8_is_refused_without_a_gpu() -> None:
    with pytest.raises(ResourceError, match=r"8-bit products need a GPU.*precision=bf16"):
        chosen(precision="fp8")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_long_runs_on_a_cpu_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert not chosen().compile
    assert "less than the 10" in reason(chosen(), "compile")
    long = chosen(parameters=10**9, steps=10_000, schedule=ScheduleConfig(warmup_steps=1))
    assert long.compile
    assert "more than the 10" in reason(long, "compile")
    assert chosen(compile="on").compile


def test_without_a_compiler_nothing_is_compiled_and_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    choices = chosen(compile="on")
    assert not choices.compile
    assert "cannot be run" in reason(choices, "compile")
    assert "(on was asked for)" in reason(choices, "compile")


def test_a_compiler_that_fails_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'try.cpp:2: fatal error: omp.h: No such file or directory' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "omp.h: No such file" in cpp_compiler_missing(str(broken))


def test_zero3_takes_what_works_with_gathered_matrices() -> None:
    choices = chosen(strategy=StrategyConfig(name="zero3"), compile="on", objective=ObjectiveConfig(cross_entropy="chunked"))
    assert not choices.compile
    assert choices.cross_entropy == "plain"
    assert "(on was asked for)" in reason(choices, "compile")
    assert "(chunked was asked for)" in reason(choices, "cross-entropy")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_attention_on_a_cpu() -> None:
    assert chosen().attention == "varlen"
    assert chosen(attention="varlen").attention == "varlen"
    flex = chosen(attention="flex")
    assert flex.attention == "sdpa"
    assert "flex was asked for and cannot be had: FlexAttention trains on GPUs only" in reason(flex, "attention")
    unmasked = chosen(attention="flex", objective=ObjectiveConfig(document_masking=False))
    assert unmasked.attention == "sdpa"
    assert "flex was asked for, and has no use" in reason(unmasked, "attention")


def test_large_logits_are_made_in_chunks() -> None:
    assert chosen(vocabulary_size=300).cross_entropy == "plain"
    assert chosen(vocabulary_size=256_000).cross_entropy == "chunked"
    # 2 rows of 32 tokens
    assert "62 MiB" in reason(chosen(vocabulary_size=256_000), "cross-entropy")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_liger_falls_back_to_chunked() -> None:
    choices = chosen(objective=ObjectiveConfig(cross_entropy="liger"))
    assert choices.cross_entropy == "chunked"
    assert liger_missing(CPU) in reason(choices, "cross-entropy")


def test_the_heads_of_the_initial_model_count(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        chosen(initial_model=str(tmp_path))
    LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=48).save_pretrained(tmp_path)
    assert hardware._head_size(tiny(initial_model=str(tmp_path))) == 48


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_memory_is_kept_on_a_cpu() -> None:
    library = ctypes.CDLL(None)
    try:
        assert keep_freed_memory(CPU)
        assert not keep_freed_memory(torch.device("cuda"))
    finally:
        library.mallopt(-4, 65_536)
        library.mallopt(-1, 128 * 1024)
