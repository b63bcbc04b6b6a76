"""The `pretrain` stage: token store and tokenizer in, checkpoints and a Hugging Face folder out.

torch is imported in the stage's body: whether the stage is complete is known without it.
"""

import json
from collections.abc import Callable
from pathlib import Path

from iberlm.core.manifest import Manifest
from iberlm.core.ranks import ranks_have_run, run_ranks, seconds_elsewhere
from iberlm.core.stage import Record, run_stage
from iberlm.train.config import CHECKSUMS, PretrainConfig, accumulation_steps
from iberlm.train.files import CHECKPOINTS, EVENTS, GENERATIONS, MEMORISATION, METRICS, MODEL, SAMPLES, SUMMARY, VALIDATION
from iberlm.train.frozen import Inputs, freeze
from iberlm.train.inputs import check_gates, check_model, check_tokenizer, verify_store
from iberlm.train.mesh import check_strategy
from iberlm.train.state import STATE
from iberlm.train.trackers import check_tracker

VERSION = 2

Launcher = Callable[[str, list[str], int], None]
"""Runs `python -m MODULE ARGUMENTS` as so many ranks and raises what a rank raised: `core.ranks.run_ranks` or Slurm's srun."""


def run(config: PretrainConfig, inputs: list[Manifest], out: Path, *, launcher: Launcher = run_ranks) -> Manifest:
    """Pretrain from `inputs` = [tokenize, train-tokenizer], then the tokenize stage of `replay` when there is one, then the manifest
    of `initial_model` when one of our stages made it; return the manifest.

    Only this process keeps the stage's books. With one rank it trains here; with more (`cluster.ranks`) the launcher
    starts the ranks, which find their settings frozen in `out`. An interrupted run goes on from its newest checkpoint.
    Refused before anything starts: a tokenizer that was changed, that the store was not made with, or that failed a gate
    which is not waived, and a store whose files are not those of its manifest (see `inputs`).
    """
    stores = [manifest for manifest in inputs if manifest.stage == inputs[0].stage]
    for store in stores:
        check_tokenizer(store, inputs[1])
    check_gates(inputs[1], config.waived_gates)
    check_model(config)

    def body(config: PretrainConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        # what does not fit is told before anything starts
        check_tracker(config.tracker)
        check_strategy(config, config.cluster.ranks, config.cluster.ranks_per_node)
        accumulation_steps(config, config.cluster.ranks)
        if config.verify_store == CHECKSUMS and not ranks_have_run():
            for store in stores:
                verify_store(store, out)
        folders = Inputs(inputs[0].folder, inputs[1].folder, stores[1].folder if len(stores) > 1 else None)
        frozen = freeze(config, folders, out)
        if config.cluster.ranks == 1:
            from iberlm.train import worker  # and with it torch, which a run of several ranks need not wait for here

            worker.train_rank(config, folders, out)
        else:
            launcher("iberlm.train.worker", [str(frozen)], config.cluster.ranks)
        record.seconds_elsewhere = seconds_elsewhere()
        record.metrics = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        for name in (MODEL, CHECKPOINTS):
            record.output_tree(out / name)
        for name in (METRICS, VALIDATION, EVENTS, SAMPLES, STATE, GENERATIONS, MEMORISATION):
            if (out / name).is_file():
                record.output(out / name)

    return run_stage("pretrain", VERSION, body, config, inputs, out, resumable=True)
