"""Packages of a bundle: gathered by pip from a folder that stands for an index, installed with their checksums where there is none."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from iberlm import __version__
from iberlm.core.errors import ConfigError, ResourceError
from iberlm.launch.offline.bundle import check_bundle, read_bundle
from iberlm.launch.offline.prefetch import record
from iberlm.launch.offline.wheels import closure, gather_wheels

HERE = platform.machine()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for name, version in (("town_words", "1.0"), ("town_words", "2.0"), ("town_rules", "0.5+cu1")):
        _write_wheel(folder, name, version)
    return folder


def _write_wheel(folder: Path, name: str, version: str) -> None:
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = '{version}'\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


def install(bundle: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    """As the documentation says, but for the dependencies of IberLM itself, which this test does not gather."""
    wheels = bundle / "wheels"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(target)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    options = ["--no-index", "--find-links", str(wheels), "--require-hashes", "-r", str(wheels / "requirements.txt")]
    return subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)


def test_gathered_packages_install_elsewhere_with_their_checksums(index: Path, tmp_path: Path) -> None:
    bundle, pins = tmp_path / "bundle", {"town-words": "1.0", "town-rules": "0.5+cu1", "iberlm": "0"}
    item = gather_wheels(bundle, pins, HERE)
    record(bundle, item)
    assert len(item.files) == 4
    shutil.rmtree(index)
    again = gather_wheels(bundle, pins, HERE)  # downloads nothing; IberLM's own wheel is made anew from the clone
    assert [entry["path"] for entry in again.files] == [entry["path"] for entry in item.files]
    record(bundle, again)

    moved = shutil.move(bundle, tmp_path / "far away")
    ended = install(moved, tmp_path / "packages")
    assert ended.returncode == 0, ended.stderr
    program = "import iberlm, town_words, town_rules; print(iberlm.__file__, iberlm.__version__, town_words.VERSION, town_rules.VERSION)"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "packages")}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True).stdout
    assert found.split() == [str(tmp_path / "packages" / "iberlm" / "__init__.py"), __version__, "1.0", "0.5+cu1"]

    wheel = moved / "wheels" / "town_words-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    wheel.write_bytes(content)
    assert "damaged" in check_bundle(moved, [], checksums=True)[0]
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in install(moved, tmp_path / "others").stderr


def test_another_version_takes_the_place_of_the_old_one(index: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    record(bundle, gather_wheels(bundle, {"town-words": "1.0"}, HERE))
    record(bundle, gather_wheels(bundle, {"town-words": "2.0"}, HERE))
    assert [path.name for path in (bundle / "wheels").glob("*.whl")] == ["town_words-2.0-py3-none-any.whl"]
    assert len(read_bundle(bundle)) == 1
    assert check_bundle(bundle, [], checksums=True) == []


def test_what_pip_cannot_get_is_told_with_the_mend(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"pip could not get the packages .*town-words==3.0\+rocm1.*name its index in PIP_EXTRA_INDEX_URL"):
        gather_wheels(tmp_path / "bundle", {"town-words": "3.0+rocm1"}, HERE)
    with pytest.raises(ConfigError, match=rf"wheels are made for this machine \({HERE}\), and the nodes are sparc"):
        gather_wheels(tmp_path / "bundle", {"town-words": "1.0"}, "sparc")
    with pytest.raises(ConfigError, match=r"the package no-such-thing .* is not installed here"):
        closure(["no-such-thing"])


def test_the_packages_are_those_that_iberlm_needs_in_the_versions_of_this_environment() -> None:
    pins = closure(["iberlm"])
    assert pins["torch"] == importlib.metadata.version("torch")
    assert {"transformers", "datasets", "lm-eval", "jinja2", "markupsafe", "huggingface-hub"} <= set(pins), "what is needed by what is needed, too"
    assert not {"pytest", "mypy", "hypothesis"} & set(pins)
    assert "hypothesis" in closure(["iberlm[dev]"])
