"""The container definitions, as far as they can be checked where no container can be built: sections, files and shell."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from iberlm.core.resources import resource_dir

ROOT = Path(__file__).parents[2]
DEFINITIONS = sorted((resource_dir("slurm") / "containers").glob("*.def"))
SECTIONS = {"arguments", "labels", "files", "post", "environment", "runscript", "test", "help"}
SHELL = ("post", "test", "environment", "runscript")
"""Apptainer runs these with sh."""


def sections(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Header keys, and the text of each section, with the defaults of its arguments filled in."""
    head, *parts = re.split(r"(?m)^%", path.read_text(encoding="utf-8"))
    header = dict(line.split(": ", 1) for line in head.splitlines() if line and not line.startswith("#"))
    found = {name: text for name, _, text in (part.partition("\n") for part in parts)}
    arguments = dict(line.strip().split("=", 1) for line in found["arguments"].splitlines() if line.strip())
    return header, {name: re.sub(r"\{\{ (\w+) \}\}", lambda match: arguments[match[1]], text) for name, text in found.items()}


def test_there_is_one_for_cuda_and_one_for_rocm() -> None:
    assert [path.name for path in DEFINITIONS] == ["cuda.def", "rocm.def"]


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_a_definition_has_known_sections_a_pinned_base_and_files_that_exist(path: Path) -> None:
    header, found = sections(path)
    assert header["Bootstrap"] == "docker"
    assert re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+\.\d+[\w.-]*", header["From"]), "a base image is named with its version"
    assert set(found) == SECTIONS
    assert "{{" not in "".join(found.values())
    copied = [line.split() for line in found["files"].splitlines() if line.strip()]
    assert all((ROOT / source).exists() for source, _ in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["force-include"], "src", "pyproject.toml"} <= {source for source, _ in copied}, "the build needs what the wheel takes in"
    torch = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert torch is not None
    assert f"TORCH={torch[1]}" in found["arguments"]
    assert not re.search(r"(?i)token|password|secret", "".join(text for name, text in found.items() if name != "help"))


@pytest.mark.parametrize("section", SHELL)
@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_the_shell_of_a_definition_is_sound(path: Path, section: str) -> None:
    _, found = sections(path)
    script = found[section]
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
    if shutil.which("shellcheck") is None and not os.environ.get("CI"):
        pytest.skip("needs shellcheck")
    command = ["shellcheck", "--shell", "sh", "-"]
    ended = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout
