"""`iberlm doctor`: what is wrong with a machine, an installation or a profile, and the mend for each, before a job finds out."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from iberlm.core.cluster import ClusterConfig
from iberlm.launch.doctor.accelerators import check_gpus, check_imports, check_ranks, probe
from iberlm.launch.doctor.checks import (
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    Finding,
    check_clock,
    check_compilers,
    check_limits,
    check_packages,
    check_python,
    modules_to_import,
)
from iberlm.launch.doctor.disk import check_disks, existing
from iberlm.launch.doctor.environment import check_environment, check_jobs, check_offline
from iberlm.launch.doctor.slurm import check_slurm

__all__ = ["Finding", "as_json", "examine", "exit_status", "lines", "show"]
_STYLES = {OK: "green", NOTE: "blue", WARNING: "yellow", PROBLEM: "bold red"}


def examine(cluster: ClusterConfig, run_dir: Path, profile: Path | None = None) -> list[Finding]:
    """Everything that can be told here, in the order in which it is shown; `profile` is the file of the profile. Nothing is left behind."""
    with ThreadPoolExecutor(max_workers=1) as beside:
        child = beside.submit(probe, modules_to_import())  # it takes the longest
        before = [*check_python(), *check_packages()]
        after = [
            *check_compilers(),
            *check_disks(cluster, run_dir),
            *check_limits(),
            *check_clock(existing(run_dir)),
            *check_environment(os.environ, cluster),
            *check_offline(os.environ, cluster),
            *check_jobs(cluster),
            *check_slurm(cluster, profile),
        ]
        found = child.result()
    return [*before, *check_imports(found), *check_gpus(found, cluster), *check_ranks(found), *after]


def exit_status(findings: Iterable[Finding]) -> int:
    """6, the status of what a machine cannot do, when there is a problem."""
    return 6 if any(finding.level == PROBLEM for finding in findings) else 0


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for programs."""
    return {"status": exit_status(findings), "findings": [dataclasses.asdict(finding) for finding in findings]}


def lines(findings: Sequence[Finding]) -> list[str]:
    """Plain lines, for logs and mails: one a finding, its mend below it, and the sum."""
    widths = [max((len(getattr(finding, key)) for finding in findings), default=0) for key in ("level", "section", "name")]
    shown: list[str] = []
    for finding in findings:
        head = "  ".join(text.ljust(width) for text, width in zip((finding.level, finding.section, finding.name), widths, strict=True))
        shown.append(f"{head}  {finding.seen}")
        if finding.mend:
            shown.append(f"{' ' * len(head)}  -> {finding.mend}")
    return [*shown, "", summary(findings)]


def summary(findings: Sequence[Finding]) -> str:
    """The sum in one line."""
    counts = {level: sum(finding.level == level for finding in findings) for level in (PROBLEM, WARNING)}
    words = [f"{number} {level}{'' if number == 1 else 's'}" for level, number in counts.items() if number]
    return f"{', '.join(words) or 'nothing is wrong'}; {len(findings)} findings"


def show(findings: Sequence[Finding]) -> None:
    """Print the findings: as a coloured table on a terminal, as plain lines elsewhere."""
    if not sys.stdout.isatty():
        print("\n".join(lines(findings)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(4):
        table.add_column(overflow="fold")
    section = ""
    for finding in findings:
        seen = Text(finding.seen)
        if finding.mend:
            seen.append(f"\n-> {finding.mend}", style=_STYLES[finding.level])
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.section if finding.section != section else "", Text(finding.name), seen)
        section = finding.section
    console = Console(highlight=False, emoji=False, markup=False)
    console.print(table)
    console.print()
    console.print(summary(findings))
