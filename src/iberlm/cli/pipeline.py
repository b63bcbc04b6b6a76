"""`iberlm run`: the stages of a pipeline recipe in order, each in a process of its own, skipping what is complete.

Whether a stage is complete is asked here, without importing torch; a stage that is not gets its resolved settings frozen
in `RUN_DIR/configs/` and runs as `iberlm VERB --frozen FILE`: the same seam that a batch job uses.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from iberlm.cli.curate_verb import CurateConfig
from iberlm.core.config import StageConfig, given, one_of
from iberlm.core.errors import DataError, ResourceError
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.process import die_with_parent
from iberlm.core.progress import say
from iberlm.core.stage import WouldRunError, place, shown
from iberlm.core.stopping import STOP_SIGNALS, Interrupted, forwarded_stop_signals
from iberlm.evaluate.config import EvaluateConfig
from iberlm.finetune.config import FinetuneConfig
from iberlm.report.config import ReportConfig
from iberlm.sources.config import FetchConfig
from iberlm.tokenizer.config import TokenizeConfig, TrainTokenizerConfig
from iberlm.train.config import PretrainConfig

STAGES = ("fetch", "curate", "train_tokenizer", "tokenize", "pretrain", "evaluate", "finetune", "evaluate_finetuned", "report")
"""Every stage a pipeline may have, in the order of the line. `evaluate_finetuned` is `evaluate` on the fine-tuned model."""


@dataclass(kw_only=True)
class RunConfig(StageConfig):
    """Settings of a pipeline: which stages, and the settings of each under its name."""

    stages: list[str] = place(default_factory=lambda: list(STAGES))
    """Stages to run, in order."""
    fetch: FetchConfig
    curate: CurateConfig
    train_tokenizer: TrainTokenizerConfig
    tokenize: TokenizeConfig
    pretrain: PretrainConfig
    evaluate: EvaluateConfig
    finetune: FinetuneConfig
    evaluate_finetuned: EvaluateConfig
    report: ReportConfig

    def __post_init__(self) -> None:
        given("stages", self.stages)
        for index, stage in enumerate(self.stages):
            one_of(f"stages[{index}]", stage, STAGES)


def run_pipeline(config: RunConfig) -> Manifest:
    """Run the stages; return the manifest of the last one. Under `dry_run` print what would run and raise `WouldRunError`."""
    from iberlm.cli.verbs import pending, verb_of

    started = time.monotonic()
    run_dir = Path(config.run_dir)
    would_run: list[WouldRunError] = []
    for stage in config.stages:
        settings: StageConfig = getattr(config, stage)
        if config.dry_run and would_run:  # what this stage reads is still to be made, so nobody can tell whether it will change
            say(f"{stage}: would run in {shown(Path(settings.out).absolute())}, unless what it reads comes out the same")
            continue
        if (plan := pending(verb_of(stage), settings)) is None:
            continue
        would_run.append(plan)
        if config.dry_run:
            say(f"{stage}: would run in {shown(Path(settings.out).absolute())}")
            continue
        run_frozen_stage(stage, settings, run_dir)
    if config.dry_run and would_run:
        raise WouldRunError("run", run_dir.absolute())
    manifest = read_manifest(Path(getattr(config, config.stages[-1]).out))
    say(f"run: all stages complete in {time.monotonic() - started:.1f} s")
    for path in manifest.paths(suffix=".html"):
        say(f"run: the report is {path}")
    return manifest


def run_frozen_stage(stage: str, settings: StageConfig, run_dir: Path) -> None:
    """Run a stage on this machine, in a process of its own, from settings frozen in `RUN_DIR/configs/`. Raises what it ended with."""
    from iberlm.cli.hydra_app import freeze
    from iberlm.cli.verbs import verb_of

    path = run_dir / "configs" / f"{stage}.yaml"
    freeze(settings, path)
    command = [sys.executable, "-m", "iberlm", verb_of(stage).name, "--frozen", str(path)]
    children: list[subprocess.Popen[str]] = []
    with forwarded_stop_signals(lambda: children):
        # preexec_fn is safe: this process has no threads of its own
        children.append(subprocess.Popen(command, preexec_fn=functools.partial(die_with_parent, os.getpid()), text=True))
        status = children[0].wait()
    if status == Interrupted.exit_status:
        raise Interrupted(f"stopped in '{stage}'; run the same command again to go on")
    if -status in STOP_SIGNALS:  # a stage that does not listen for them has nothing to save: its finished shards are on disk
        raise Interrupted(f"stopped in '{stage}' by {signal.Signals(-status).name}; run the same command again to go on")
    if status < 0:
        raise ResourceError(f"{stage}: its process was ended by signal {-status}, most often for lack of memory; run the same command again to go on")
    if status > 0:
        error = DataError(f"the pipeline stopped at '{stage}'; mend what is said above and run the same command again: finished stages are skipped")
        error.exit_status = status
        raise error
