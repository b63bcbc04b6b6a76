"""What `iberlm doctor` has done in a process of its own, since it may crash: import packages, use GPUs, exchange between two ranks.

    python -m iberlm.launch.doctor.child MODULE...

Modules are imported in that order. A line of JSON tells what is begun and what came of it, so that after a crash the last line names who did it. torch is
imported here by name: nothing else of `iberlm.launch` may load it. What uses GPUs or gloo runs in forks, before this process has touched either.
"""

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

GLOO_SECONDS, NCCL_SECONDS, GPU_SECONDS = 20.0, 60.0, 60.0
_TOLD_BYTES = 1 << 16


def main(modules: list[str]) -> None:
    """Import `modules`, and examine torch when it is among them."""
    warnings.simplefilter("ignore")
    out = os.dup(1)
    os.dup2(2, 1)  # libraries greet on standard output

    def tell(**line: Any) -> None:
        os.write(out, (json.dumps(line) + "\n").encode())

    for name in modules:
        tell(begin=name)
        started = time.monotonic()
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # a package may even call sys.exit
            tell(failed=name, error=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            continue
        tell(imported=name, seconds=time.monotonic() - started)
        if name == "torch":
            _examine(module, tell)
    # what some libraries do at exit (threads, CUDA contexts) is no business of this
    os._exit(0)


def _examine(torch: Any, tell: Callable[..., None]) -> None:
    tell(torch=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip)
    gpus = _in_forks(1, GPU_SECONDS, lambda _: _gpus(torch))
    tell(gpus=gpus)
    with tempfile.TemporaryDirectory(prefix="iberlm-doctor-") as folder:
        tell(gloo=_in_forks(2, GLOO_SECONDS, _all_reduce(torch, "gloo", folder)))
        if len(gpus[0].get("value") or []) > 1:
            tell(nccl=_in_forks(2, NCCL_SECONDS, _all_reduce(torch, "nccl", folder)))


def _gpus(torch: Any) -> list[dict[str, Any]]:
    """Each GPU that torch can use, having computed on it: a build without kernels for it fails only then."""
    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(number)
        entry = {"name": facts.name, "memory_bytes": facts.total_memory, "capability": [facts.major, facts.minor]}
        try:
            value = torch.ones(8, 8, device=f"cuda:{number}").matmul(torch.ones(8, 8, device=f"cuda:{number}")).sum().item()
            entry["error"] = "" if value == 512.0 else f"computed {value}, expected 512"
        except RuntimeError as error:
            entry["error"] = str(error).splitlines()[0]
        found.append(entry)
    return found


def _all_reduce(torch: Any, backend: str, folder: str) -> Callable[[int], float]:
    """A function of the rank: the seconds that two ranks needed to meet in `folder` and to add up a tensor over loopback."""

    def exchange(rank: int) -> float:
        # what a user set for the nodes' network may not be here; loopback always is
        os.environ.update({"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"})
        started = time.monotonic()
        where = "cpu"
        if backend == "nccl":
            torch.cuda.set_device(rank)
            where = f"cuda:{rank}"
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/{backend}", rank=rank, world_size=2)
        value = torch.full((1024,), float(rank + 1), device=where)
        torch.distributed.all_reduce(value)
        if value.sum().item() != 3.0 * 1024:
            raise ArithmeticError(f"the sum of 1 and 2 came out as {value[0].item()}")
        return time.monotonic() - started

    return exchange


def _in_forks(number: int, seconds: float, work: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Do `work(rank)` in `number` forks at once; each gives {"value": ...} or {"error": ...}, within `seconds`."""
    forks = [_fork(rank, work) for rank in range(number)]
    deadline = time.monotonic() + seconds
    results: list[dict[str, Any]] = []
    for process, told in forks:
        told.settimeout(max(0.1, deadline - time.monotonic()))
        text = b""
        late = False
        try:
            while part := told.recv(_TOLD_BYTES):
                text += part
        except TimeoutError:
            late = True
            os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        told.close()
        if late:
            results.append({"error": f"no answer in {seconds:g} s"})
        elif text:
            results.append(json.loads(text))
        else:
            results.append({"error": f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"})
    return results


def _fork(rank: int, work: Callable[[int], Any]) -> tuple[int, socket.socket]:
    mine, its = socket.socketpair()
    process = os.fork()
    if process:
        its.close()
        return process, mine
    mine.close()
    try:
        try:
            told = {"value": work(rank)}
        except BaseException as error:
            told = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        its.sendall(json.dumps(told).encode())
    finally:
        os._exit(0)  # never back into the caller, and none of its clean-up


if __name__ == "__main__":
    main(sys.argv[1:])
