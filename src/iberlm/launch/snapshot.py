"""The code that a job was submitted with: version, commit and what differs from it."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from iberlm import __version__
from iberlm.core.files import write_json, write_text
from iberlm.core.stage import code_version
from iberlm.launch.records import CODE, DIFF

_LARGEST_DIFF_BYTES = 8 << 20


def snapshot() -> tuple[dict[str, Any], str]:
    """What `code.json` and `code.diff` hold. An installed wheel has a version alone; a clone its commit and diff too."""
    found: dict[str, Any] = {
        "version": __version__,
        "code_version": code_version(),
        "python": sys.executable,
        "command": sys.orig_argv,
        "folder": str(Path.cwd()),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    clone = Path(__file__).resolve().parents[3]
    if not (clone / ".git").exists():
        return found, ""
    commit, diff, status = _git(clone, "rev-parse", "HEAD"), _git(clone, "diff", "--binary", "HEAD"), _git(clone, "status", "--porcelain")
    if commit is None or diff is None or status is None:
        return found | {"clone": str(clone), "git": "could not be asked"}, ""
    untracked = [line[3:] for line in status.splitlines() if line.startswith("??")]
    found |= {"clone": str(clone), "commit": commit.strip(), "untracked": untracked}
    if len(diff) > _LARGEST_DIFF_BYTES:
        found["diff"] = f"cut off after {_LARGEST_DIFF_BYTES} of {len(diff)} characters"
        diff = diff[:_LARGEST_DIFF_BYTES]
    return found, diff


def write_snapshot(folder: Path, taken: tuple[dict[str, Any], str]) -> None:
    """Leave `code.json`, and `code.diff` where the clone differs from its commit, in a job's folder."""
    write_json(folder / CODE, taken[0])
    (folder / DIFF).unlink(missing_ok=True)
    if taken[1]:
        write_text(folder / DIFF, taken[1])


def _git(clone: Path, *arguments: str) -> str | None:
    try:
        # without optional locks: a kill in this moment must not leave a lock in the user's clone
        command = ["git", "--no-optional-locks", "-C", str(clone), *arguments]
        ended = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=30, env=os.environ | {"LC_ALL": "C"})
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout
