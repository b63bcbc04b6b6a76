"""One side of a measurement of `benchmarks.evaluate`, in a process of its own: prints one line of JSON.

python -m benchmarks.evaluate_sides first-request lm_eval|iberlm ARGUMENTS...   seconds from the start of the process to the model's first call
python -m benchmarks.evaluate_sides repeat ARGUMENTS...                         seconds of `iberlm ARGUMENTS`, and whether torch was imported
python -m benchmarks.evaluate_sides requests lm_eval|iberlm MODEL BATCH         seconds of the model's calls and of the whole, on the same requests
"""

import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()


def process_age() -> float:
    """Seconds since this process began (Linux): the interpreter's own start counts."""
    began = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0]) - began / os.sysconf("SC_CLK_TCK")


def first_request(side: str, arguments: list[str]) -> None:
    """Run a whole command up to the model's first call."""
    import importlib.abc
    import importlib.machinery

    def stop(*_: Any, **__: Any) -> None:
        print(json.dumps({"seconds": process_age()}), flush=True)
        os._exit(0)

    # the class is patched when its module is imported, which the command does itself: nothing is loaded early
    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            if name != "lm_eval.models.huggingface":
                return None
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            assert spec is not None
            assert spec.loader is not None
            execute = spec.loader.exec_module

            def patched(module: Any) -> None:
                execute(module)
                module.HFLM._model_call = stop

            spec.loader.exec_module = patched  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder())
    if side == "lm_eval":
        from lm_eval.__main__ import cli_evaluate

        sys.argv = ["lm_eval", *arguments]
        cli_evaluate()
    else:
        from iberlm.cli.main import main

        sys.argv = ["iberlm", *arguments]
        main()
    raise SystemExit("the model was never called")


def repeat(arguments: list[str]) -> None:
    """A command that finds everything in the store."""
    import contextlib
    import io

    from iberlm.cli.main import main

    sys.argv = ["iberlm", *arguments]
    status: Any = None
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    assert status == 0, status
    print(json.dumps({"seconds": process_age(), "torch": "torch" in sys.modules, "lm_eval": "lm_eval" in sys.modules}))


def requests_of(count: int) -> list[Any]:
    """Questions of 5 to 150 words with four answers each, from one seed: requests as lm-eval makes them."""
    from lm_eval.api.instance import Instance

    generator = random.Random(3)
    words = "la casa del riu és molt gran i el mercat obri cada dia a les huit del matí prop de la plaça major".split()
    found = []
    for item in range(count):
        length = min(150, int(generator.lognormvariate(3.2, 0.9)) + 5)
        question = " ".join(generator.choice(words) for _ in range(length)) + "?"
        for choice in range(4):
            answer = " " + " ".join(generator.choice(words) for _ in range(generator.randrange(1, 12)))
            found.append(Instance("loglikelihood", {}, (question, answer), choice, metadata=("task", item, 1)))
    return found


def requests(side: str, model: str, batch: str, count: int = 16) -> None:
    """Score the same requests, after one that warms up; print the seconds of the whole and of the calls of the model."""
    import tempfile

    import torch
    from lm_eval.models.huggingface import HFLM

    from iberlm.evaluate.backends import Slices
    from iberlm.evaluate.backends.transformers import open_backend
    from iberlm.evaluate.config import EvaluateConfig
    from iberlm.evaluate.quiet import quiet_harness
    from iberlm.evaluate.store.journal import Journal

    spent = {"calls": 0.0, "tokens": 0}

    def timed(lm: Any) -> None:
        call = lm._model_call

        def measured(inputs: torch.Tensor, *rest: Any, **more: Any) -> Any:
            began = time.perf_counter()
            found = call(inputs, *rest, **more)
            spent["calls"] += time.perf_counter() - began
            spent["tokens"] += inputs.numel()
            return found

        lm._model_call = measured

    with quiet_harness(), tempfile.TemporaryDirectory() as folder:
        config = EvaluateConfig(model_folder=model, validation="-", batch_tokens=int(batch) if side == "iberlm" else 1)
        backend = open_backend(config)
        journal = Journal(Path(folder), "requests")
        if side == "iberlm":
            lm = backend.lm

            def ask(part: list[Any]) -> Any:
                return backend.answer("loglikelihood", part, Slices(journal))
        else:
            size: int | str = batch if batch == "auto" else int(batch)
            lm = HFLM(pretrained=lm_model(backend), tokenizer=backend.lm.tokenizer, backend="causal", batch_size=size, softmax_dtype="float32")

            def ask(part: list[Any]) -> Any:
                return lm.loglikelihood(part, disable_tqdm=True)

        ask(requests_of(2)[:4])
        timed(lm)
        began = time.perf_counter()
        answers = ask(requests_of(count))
        seconds = time.perf_counter() - began
        journal.discard()
    total = sum(answer[0] for answer in answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # KiB on Linux
    print(json.dumps({"seconds": seconds, "calls": spent["calls"], "tokens": spent["tokens"], "sum": total, "peak_mb": peak}))


def lm_model(backend: Any) -> Any:
    """The transformers model behind a backend."""
    return backend.lm.model


if __name__ == "__main__":
    if sys.argv[1] == "first-request":
        first_request(sys.argv[2], sys.argv[3:])
    elif sys.argv[1] == "repeat":
        repeat(sys.argv[2:])
    else:
        requests(*sys.argv[2:5])
