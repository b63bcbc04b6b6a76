"""The `pretrain` stage: token store and tokenizer in, checkpoints and a Hugging Face folder out.

torch is imported in the stage's body: whether the stage is complete is known without it.
"""

import json
from collections.abc import Callable
from pathlib import Path

from iberlm.core.manifest import Manifest
from iberlm.core.ranks import run_ranks
from iberlm.core.stage import Record, run_stage
from iberlm.train.config import CHECKSUMS, PretrainConfig, accumulation_steps, check_world
from iberlm.train.inputs import check_gates, check_tokenizer, verify_store

VERSION = 1

Launcher = Callable[[str, list[str], int], None]
"""Runs `python -m MODULE ARGUMENTS` as so many ranks and raises what a rank raised: `core.ranks.run_ranks` or Slurm's srun."""


def run(config: PretrainConfig, inputs: list[Manifest], out: Path, *, launcher: Launcher = run_ranks) -> Manifest:
    """Pretrain from `inputs` = [tokenize, train-tokenizer]; return the manifest.

    Only this process keeps the stage's books. With one rank it trains here; with `cluster.processes` > 1 the launcher
    starts the ranks, which find their settings frozen in `out`. An interrupted run goes on from its newest checkpoint.
    Refused before anything starts: a tokenizer that was changed, that the store was not made with, or that failed a gate
    which is not waived, and a store whose files are not those of its manifest (see `inputs`).
    """
    check_tokenizer(*inputs)
    check_gates(inputs[1], config.waived_gates)

    def body(config: PretrainConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        from iberlm.train import export, loop, worker

        tokens, tokenizer = (manifest.folder for manifest in inputs)
        # what does not fit is told before anything starts
        check_world(config.strategy.name, config.cluster.processes)
        accumulation_steps(config, config.cluster.processes)
        if config.verify_store == CHECKSUMS:
            verify_store(inputs[0], out)
        if config.cluster.processes == 1:
            worker.train_rank(config, tokens, tokenizer, out)
        else:
            launcher("iberlm.train.worker", [str(worker.freeze(config, tokens, tokenizer, out))], config.cluster.processes)
        record.metrics = json.loads((out / worker.SUMMARY).read_text(encoding="utf-8"))
        for name in (export.MODEL, loop.CHECKPOINTS):
            record.output_tree(out / name)
        for name in (loop.METRICS, loop.VALIDATION, export.GENERATIONS):
            record.output(out / name)

    return run_stage("pretrain", VERSION, body, config, inputs, out, resumable=True)
