"""The packages of the running environment as wheels in a bundle, to be installed where there is no internet.

pip downloads or builds them; which they are, this environment says: what IberLM needs, all the way down, each in the version installed here.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from iberlm import __version__
from iberlm.core.errors import ConfigError, ResourceError
from iberlm.core.files import disk_errors, sha256_file, write_text
from iberlm.core.progress import say
from iberlm.launch.offline.bundle import WHEELS, Item

REQUIREMENTS = "requirements.txt"
OURS = "iberlm"
_WITHOUT_ISOLATION = ("deepspeed",)
"""Its build imports torch, which a build environment of pip's own would not have."""


def closure(roots: list[str]) -> dict[str, str]:
    """Versions by name of the installed distributions that `roots` (requirements, extras too) need, and what those need.

    Raises `ConfigError` when one is not installed.
    """
    found: dict[str, str] = {}
    pending = [(Requirement(root), "") for root in roots]
    done: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement, wanted_by = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(f"prefetch: the package {name} (for {wanted_by or 'this command'}) is not installed here; `pip install {name}`") from None
        found[name] = distribution.version
        for line in distribution.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                pending.append((needed, name))
    return dict(sorted(found.items()))


def gather_wheels(bundle: Path, pins: dict[str, str], architecture: str) -> Item:
    """Put a wheel of each package into BUNDLE/wheels, and `requirements.txt` with their checksums; those that are there stay.

    `architecture` is that of the nodes. Raises `ConfigError` when it is another one than this machine's, `ResourceError` when
    pip is missing or cannot get or build a package.
    """
    if platform.machine() != architecture:
        raise ConfigError(
            f"prefetch: wheels are made for this machine ({platform.machine()}), and the nodes are {architecture}; make them on such a machine, or use a "
            "container (slurm/containers)"
        )
    if not any(importlib.metadata.distributions(name="pip")):  # not find_spec, into which setuptools reaches
        raise ResourceError(f"prefetch: there is no pip in this environment, which gathers the packages; `{sys.executable} -m ensurepip`")
    pins = pins | ({OURS: __version__} if OURS in pins else {})  # an editable installation keeps the version of the day that it was made
    folder = bundle.absolute() / WHEELS
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    there = _present(folder, pins)
    rest = [name for name in pins if name not in there]
    apart = [name for name in rest if name in _WITHOUT_ISOLATION]
    if plain := [f"{name}=={pins[name]}" for name in rest if name not in apart and name != OURS]:
        say(f"prefetch: {len(plain)} packages into {folder}")
        _pip(folder, plain)
    if apart:
        _pip(folder, ["--no-build-isolation", *(f"{name}=={pins[name]}" for name in apart)])
    if OURS in pins:  # always built anew: a clone changes without its version
        _build_ours(folder, pins[OURS])
    there = _present(folder, pins)
    if absent := [name for name in pins if name not in there]:
        raise ResourceError(f"prefetch: pip left no wheel of {', '.join(absent)} in {folder}")
    for path in set(folder.glob("*.whl")) - set(there.values()):
        path.unlink()  # of another version, or no longer needed
    sums = {name: sha256_file(path) for name, path in there.items()}
    write_text(folder / REQUIREMENTS, "".join(f"{name}=={pins[name]} --hash=sha256:{sums[name]}\n" for name in sorted(pins)))
    files = [*there.values(), folder / REQUIREMENTS]
    entries = [{"path": path.relative_to(bundle.absolute()).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(files)]
    return Item(kind="packages", name=f"python{sys.version_info.major}.{sys.version_info.minor}-{architecture}", used_by=["--wheels"], files=entries)


def _present(folder: Path, pins: dict[str, str]) -> dict[str, Path]:
    """The newest wheel of each pinned version."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime_ns):
        name, version, _, _ = parse_wheel_filename(path.name)
        if pins.get(name) == str(version):
            found[name] = path
    return found


def _build_ours(folder: Path, version: str) -> None:
    """A wheel of the running IberLM: from its clone, or from where it was installed."""
    for path in folder.glob(f"{OURS}-*.whl"):
        path.unlink()
    clone = Path(__file__).resolve().parents[3]
    source = str(clone) if (clone / "pyproject.toml").is_file() else _installed_from() or f"{OURS}=={version}"
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    _pip(folder, [*isolation, source])


def _installed_from() -> str:
    """The file or folder that this IberLM was installed from, as pip noted it; empty when it came from an index."""
    text = importlib.metadata.distribution(OURS).read_text("direct_url.json")
    url = urlparse(str(json.loads(text)["url"])) if text else urlparse("")
    return unquote(url.path) if url.scheme == "file" and Path(unquote(url.path)).exists() else ""


def _pip(folder: Path, arguments: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        *arguments,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode != 0:
        lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR:")] or ended.stderr.splitlines()[-1:]
        local = [entry for entry in arguments if "==" in entry and "+" in entry]
        hint = f"; for {local[0]} name its index in PIP_EXTRA_INDEX_URL" if local else ""
        raise ResourceError(f"prefetch: pip could not get the packages ({' '.join(lines)[:400]}){hint}; what it has got stays: run the same command again")
