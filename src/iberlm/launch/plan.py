"""What a submission would ask for, before anything is submitted: jobs, GPU-hours, core-hours, storage, energy, and what it would be refused for."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from iberlm.core.process import WATTS_PER_CORE
from iberlm.launch.hours import Request, Total, core_hours, energy_kwh, gpu_hours, hours, longest_minutes, starts, total
from iberlm.launch.judge import judge

__all__ = ["Request", "Total", "as_json", "core_hours", "energy_kwh", "gpu_hours", "plan_lines", "starts", "total"]
_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def plan_lines(requests: Sequence[Request], *, ask_slurm: bool = False) -> list[str]:
    """Lines to print: a table of the jobs, sums, and what stands against it (`judge`)."""
    if not requests:
        return ["nothing to submit: everything is complete"]
    lines = _table(requests)
    sums = total(requests)
    lines += ["", f"jobs           {sums.jobs} in {len(requests)} {_plural(len(requests), 'submission')}"]
    lines.append(f"GPU-hours      {sums.gpu_hours:,.0f} at most: whole allocations at their full walltime, every start counted; failures come on top")
    lines.append(f"core-hours     {sums.core_hours:,.0f} at most, counted in the same way; of a whole node all cores")
    for request in requests:
        if request.device_hours is not None:
            devices = f"{request.devices * request.elements:,} {'GPUs' if request.gpus_per_node else 'processes'}"
            number = starts(request)
            lines.append(
                f"planned        {request.name}: {request.device_hours:,.0f} device hours, of steps alone: "
                f"{request.device_hours / request.devices / request.elements:,.1f} h on {devices}, {number} {_plural(number, 'start')}"
            )
    unknown = [request.name for request in requests if not request.minutes]
    if unknown:
        lines.append(f"note           no walltime is known of {', '.join(unknown)}: not counted")
    lines.append(f"time           {hours(longest_minutes(requests))} h from first to last at full walltimes, without waiting in the queue")
    lines.append(f"energy         {_energy(requests, sums)}")
    kinds = ", ".join(f"{kind} {_bytes(size)}" for kind, size in sorted(sums.storage_bytes.items()))
    silent = [request.name for request in requests if not request.storage_bytes]
    rest = f"not known of {', '.join(silent)}" if silent else ""
    lines.append(f"storage        {'; '.join(filter(None, [kinds, rest]))}")
    judged = judge(requests, ask_slurm=ask_slurm)
    lines += [f"note           {text}" for text in judged.remarks]
    lines += [f"REFUSED        {text}" for text in judged.refused]
    return lines


def as_json(requests: Sequence[Request], *, ask_slurm: bool = False) -> dict[str, Any]:
    """The same for programs."""
    jobs = [
        {
            "name": request.name,
            "verb": request.verb,
            "cluster": request.cluster.name,
            "after": list(request.after),
            "nodes": request.nodes,
            "tasks_per_node": request.tasks_per_node,
            "cpus_per_task": request.cpus_per_task,
            "gpus_per_node": request.gpus_per_node,
            "minutes": request.minutes,
            "elements": request.elements,
            "max_running": request.max_running,
            "starts": starts(request),
            "gpu_hours": gpu_hours(request),
            "core_hours": core_hours(request),
            "device_hours": request.device_hours,
            "energy_kwh": energy_kwh(request),
            "storage_bytes": request.storage_bytes,
        }
        for request in requests
    ]
    sums = dataclasses.asdict(total(requests)) | {"longest_minutes": longest_minutes(requests)}
    return {"jobs": jobs, "total": sums} | dataclasses.asdict(judge(requests, ask_slurm=ask_slurm))


def _table(requests: Sequence[Request]) -> list[str]:
    rows = [["job", "cluster", "after", "nodes", "GPUs a node", "cores a node", "walltime", "elements", "starts", "GPU-hours", "core-hours"]]
    for request in requests:
        running = f" ({request.max_running} at once)" if request.max_running and request.max_running < request.elements else ""
        rows.append(
            [
                request.name,
                request.cluster.name,
                ", ".join(request.after) or "-",
                str(request.nodes),
                str(request.gpus_per_node),
                str(request.cores_per_node),
                hours(request.minutes) if request.minutes else "?",
                f"{request.elements}{running}" if request.elements > 1 else "-",
                str(starts(request)),
                f"{gpu_hours(request):,.0f}",
                f"{core_hours(request):,.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _energy(requests: Sequence[Request], sums: Total) -> str:
    missing = sorted({request.cluster.name for request in requests if energy_kwh(request) is None})
    if missing:
        return f"not known: the power of a device of {', '.join(missing)} is not; cluster.device.watts=N"
    ways = [
        f"{request.cluster.device.watts:g} W a GPU x hours x PUE {request.cluster.device.pue:g}"
        if request.gpus_per_node
        else f"{WATTS_PER_CORE:g} W a core x hours, the building in it"
        for request in requests
    ]
    return f"{sums.energy_kwh or 0.0:,.1f} kWh, estimated from the hours above: {'; '.join(dict.fromkeys(ways))}"


def _plural(number: int, word: str) -> str:
    return word if number == 1 else f"{word}s"


def _bytes(number: float) -> str:
    for unit in _DECIMAL_UNITS:
        if number < 1000 or unit == _DECIMAL_UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
