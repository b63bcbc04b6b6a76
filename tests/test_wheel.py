"""An installed wheel brings recipes, cards, evaluation tasks and cluster profiles with it."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are those of this environment (the tests reach no network)."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    packages = next((folder / "venv/lib").glob("python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def run(installed: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(installed / "venv/bin/iberlm"), *arguments]
    return subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_every_shipped_file_and_no_litter(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("recipes", "data_cards", "eval", "slurm"):
        tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files", kind], capture_output=True, text=True, check=True).stdout.split()
        assert {f"iberlm/_resources/{name}" for name in tracked} <= names
    assert "iberlm/sources/sample/documents.ca_valencia.jsonl" in names
    assert not [name for name in names if "__pycache__" in name]


def test_recipes_cards_and_tasks_are_found_from_the_installed_wheel(installed: Path) -> None:
    ended = run(installed, "run", "pipeline=demo", "--cfg", "job")
    assert ended.returncode == 0, ended.stderr
    assert yaml.safe_load(ended.stdout)["fetch"]["corpus"]["name"] == "sample"
    assert "iberlm_sample" in run(installed, "cards", "list").stdout
    assert run(installed, "cards", "validate").returncode == 0
    where = "import iberlm.core.resources as r; print(*[r.resource_dir(kind) for kind in r.KINDS])"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [installed / "venv/bin/python", "-c", where]
    found = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=True).stdout
    assert all(str(installed) in folder for folder in found.split())


def test_the_line_begins_from_the_installed_wheel(installed: Path) -> None:
    assert run(installed, "fetch").returncode == 0
    ended = run(installed, "curate", "select.validation_share=0.1")
    assert ended.returncode == 0, ended.stderr
    assert "curate: ca-valencia: kept 40 of" in ended.stderr
