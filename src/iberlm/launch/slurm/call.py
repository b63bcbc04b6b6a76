"""Runs Slurm's programs and reads the words that they write."""

import os
import re
import subprocess

from iberlm.core.errors import ResourceError
from iberlm.launch.slurm.words import refusal

SECONDS = 30.0
"""How long a program of Slurm may take to answer; with a dead controller it gives up by itself after some 10 s."""
_USER_DEFAULTS = ("SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SACCTMGR_")
"""Variables by which a user changes the defaults of these programs. They are not passed on: a script says all that it asks for, and a list must be whole."""


def call(program: str, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a program of Slurm to its end, whatever its status.

    Raises `ResourceError` when there is no such program or it does not answer within `seconds`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_USER_DEFAULTS)}
    environment["SLURM_TIME_FORMAT"] = "standard"
    try:
        return subprocess.run(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise ResourceError(
            f"{program}: there is no such program, so this is no login node of a Slurm cluster (or a module must be loaded first); "
            "submit from a login node, or give cluster=local to run here"
        ) from error
    except subprocess.TimeoutExpired as error:
        more = "; the job may have been submitted all the same: look at `squeue --me` before you submit again" if program == "sbatch" else ""
        raise ResourceError(f"{program}: no answer within {seconds:g} s; Slurm's controller is busy or down (scontrol ping): try again later{more}") from error
    except (OSError, ValueError) as error:
        raise ResourceError(f"{program}: cannot be run: {error}") from error


def answer(program: str, *arguments: str) -> str:
    """What a program writes. Raises `ResourceError` or `ConfigError` with its words when it fails."""
    done = call(program, *arguments)
    if done.returncode != 0:
        raise refusal(program, done.stderr or done.stdout)
    return done.stdout


def minutes(text: str) -> int | None:
    """Minutes of a time as Slurm writes it, begun ones counted: 2-00:00:00, 30:00, 90; None for UNLIMITED, NONE and the like."""
    if not text or not text[0].isdecimal():
        return None
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:  # DAYS-HOURS[:MINUTES[:SECONDS]]
        hours, minute, second = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minute, second = parts
    else:  # MINUTES[:SECONDS]
        hours, minute, second = 0, *[*parts, 0][:2]
    return (int(days or 0) * 24 + hours) * 60 + minute + (second > 0)


def fields_of(line: str) -> dict[str, str]:
    """`Name=a Nodes=b` -> {"Name": "a", "Nodes": "b"}; of a value with spaces the first word."""
    return {key: value for key, mark, value in (word.partition("=") for word in line.split()) if mark}


def known(text: str) -> str:
    return "" if text in ("N/A", "Unknown", "None", "NONE", "") else text


def number(text: str) -> int | None:
    """The number that a text begins with (sinfo adds + to what differs among nodes); None for UNLIMITED and the like."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def names(text: str) -> tuple[str, ...]:
    return () if text in ("", "ALL", "(null)", "N/A") else tuple(filter(None, text.split(",")))
