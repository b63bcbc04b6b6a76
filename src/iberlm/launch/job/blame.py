"""Which node a failed start is put down to, from what its ranks left: pure rules, careful ones.

One failure only counts; `cluster.retry.node_failures` of them put a node into quarantine. An innocent node that is taken out
costs the run a node, a bad one that stays in costs it every start, so a rule applies only where it points to one place.
"""

import re
from collections.abc import Mapping
from typing import Any

from iberlm.core.stopping import Interrupted

Report = Mapping[str, Any]
"""What a rank left: {"class", "message", "exit_status", "time", "host", "rank"}; class "" for a traceback."""

_DEVICE = re.compile(
    r"CUDA error|CUDA driver|HIP error|cuDNN error|CUBLAS_STATUS|uncorrectable ECC|\bXid\b|GPU is lost|fallen off the bus|hipError|unhandled cuda error",
    re.IGNORECASE,
)
_PROGRAM = re.compile(r"out of memory|device-side assert|invalid (device function|argument|configuration)|no kernel image", re.IGNORECASE)
"""Errors of a device that the program, or its build, has made."""
_REMOTE = re.compile(
    r"remote (process|error|peer)|ncclRemoteError|connection (reset|closed|refused|aborted)|closed by (remote )?peer|broken pipe|timed out|timeout"
    r"|socket (closed|error)|unhandled system error",
    re.IGNORECASE,
)
"""What a rank says whose partner is gone."""
_HANG = "nothing moves any more"
"""Of `train.watchdog`, which goes on with who is behind."""
_BEHIND = re.compile(r"rank \d+ on host (\S+) \(process \d+\)")


def suspects(reports: list[Report], nodes: list[str], hosts: Mapping[str, str], ranks: int) -> dict[str, str]:
    """{node: reason} of what went wrong in a start with `ranks` ranks on `nodes`; empty when nobody can tell.

    `hosts` maps a host's own name to Slurm's. In this order: a rank that reports an error of its device; those that the
    watchdog names as behind; ranks that left nothing while all others complain of a partner; errors of its own on one of
    several nodes.
    """
    failed = sorted((report for report in reports if report["exit_status"] not in (0, Interrupted.exit_status)), key=lambda report: float(report["time"]))
    if not failed:
        return {}
    # a hang is the watchdog's to judge: who reports it is not who caused it
    hung = any(_HANG in str(report["message"]) for report in failed)
    for rule in (_devices, _hung) if hung else (_devices, _silent, _own_errors):
        if found := rule(failed, reports, nodes, ranks):
            named = {_node(host, nodes, hosts): why for host, why in found.items()}
            return {node: why for node, why in named.items() if node}
    return {}


def _devices(failed: list[Report], reports: list[Report], nodes: list[str], ranks: int) -> dict[str, str]:
    own = [report for report in failed if _DEVICE.search(str(report["message"])) and not _PROGRAM.search(str(report["message"]))]
    if len({report["host"] for report in own}) == len(nodes) > 1:
        own = own[:1]  # every node says so: the first has the reason, the others what followed from it
    return {str(report["host"]): f"rank {report['rank']}: {_first_line(report)}" for report in reversed(own)}


def _hung(failed: list[Report], reports: list[Report], nodes: list[str], ranks: int) -> dict[str, str]:
    message = next(str(report["message"]) for report in failed if _HANG in str(report["message"]))
    if "no rank is ahead of another" in message:
        return {}
    return dict.fromkeys(_BEHIND.findall(message), "a rank on it held up the others")


def _silent(failed: list[Report], reports: list[Report], nodes: list[str], ranks: int) -> dict[str, str]:
    missing = sorted(set(range(ranks)) - {int(report["rank"]) for report in reports})
    if not missing or len(nodes) < 2 or not all(_REMOTE.search(str(report["message"])) for report in failed):
        return {}
    # srun hands ranks out in blocks: the first node has the first ones
    on = {nodes[rank * len(nodes) // ranks] for rank in missing}
    return {on.pop(): f"rank {missing[0]} on it ended without a word"} if len(on) == 1 else {}


def _own_errors(failed: list[Report], reports: list[Report], nodes: list[str], ranks: int) -> dict[str, str]:
    own = [report for report in failed if not _REMOTE.search(str(report["message"])) and report["class"] in ("", "ResourceError")]
    on = {str(report["host"]) for report in own}
    if len(nodes) < 2 or len(on) != 1:
        return {}
    return {on.pop(): f"only here a rank failed by itself: rank {own[0]['rank']}: {_first_line(own[0])}"}


def _node(host: str, nodes: list[str], hosts: Mapping[str, str]) -> str:
    """Slurm's name of a host; empty when it is none of the allocation's."""
    for name in (hosts.get(host, host), host.partition(".")[0]):
        if name in nodes:
            return name
    return ""


def _first_line(report: Report) -> str:
    lines = str(report["message"]).splitlines()
    return lines[0][:200] if lines else "no message"
