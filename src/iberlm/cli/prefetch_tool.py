"""`iberlm prefetch`: gather what a verb's job needs into a bundle, or say what is missing; and the needs of a verb's settings."""

import importlib.metadata
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from iberlm.core.config import StageConfig
from iberlm.core.errors import ConfigError, ResourceError
from iberlm.core.needs import DATASET, DOWNLOAD, MODEL, PACKAGE, PATH, REFUSED, TOKENIZER, Need, outside, path_need
from iberlm.core.progress import say
from iberlm.core.stage import WouldRunError


def needs_of(recipe: str, config: Any) -> list[Need]:
    """What a verb's settings need from elsewhere, its stages' outputs below `run_dir` left out. `recipe` is `Verb.recipe`, or a stage of a pipeline.

    Raises `ConfigError` for what the settings name and nobody has.
    """
    if recipe == "run":
        found = [need for stage in config.stages for need in needs_of(stage, getattr(config, stage))]
        return outside(found + _of_cluster(config), config.run_dir)
    return outside(_of_stage(recipe.removesuffix("_finetuned"), config) + _of_cluster(config), config.run_dir)


def _of_stage(stage: str, config: Any) -> list[Need]:
    from iberlm.curate import needs as curate
    from iberlm.evaluate import needs as evaluate
    from iberlm.extract import needs as extract
    from iberlm.finetune import needs as finetune
    from iberlm.sources import needs as sources
    from iberlm.tokenizer import needs as tokenizer
    from iberlm.train import needs as train

    if stage == "fetch":
        return [] if _fetched(config) else sources.needs(config)
    if stage == "curate":
        raw = [path_need(config.raw, "raw")]
        return raw + extract.needs(config.extract) + curate.needs(config.annotate, config.decontaminate, config.robots, config.quality, config.select)
    known: dict[str, Any] = {"train_tokenizer": tokenizer, "tokenize": tokenizer, "pretrain": train, "finetune": finetune, "evaluate": evaluate}
    return list(known[stage].needs(config)) if stage in known else []


def _fetched(config: StageConfig) -> bool:
    """Whether the fetch stage is complete, so that nothing is left to download."""
    from iberlm.cli.verbs import VERBS

    before, config.dry_run = config.dry_run, True
    try:
        VERBS["fetch"].function(config)
    except WouldRunError:
        return False
    finally:
        config.dry_run = before
    return True


def _of_cluster(config: StageConfig) -> list[Need]:
    cluster = config.cluster
    files = {"cluster.container.image": cluster.container.image, "cluster.setup_file": cluster.setup_file}
    return [path_need(path, key) for key, path in files.items() if path and cluster.is_slurm]


def prefetch_command(verb: str, overrides: list[str], bundle: str, config_dir: str = "") -> str:
    """The command line that gathers what `iberlm VERB OVERRIDES` needs."""
    return shlex.join(["iberlm", "prefetch", verb, *overrides, *(["--config-dir", config_dir] if config_dir else []), "--out", bundle or "BUNDLE"])


def prefetch(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="The verb whose job is to find everything: run, pretrain, evaluate ...")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]", help="Hydra overrides, as for the verb itself.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; cluster.bundle when none is given.")] = None,
    wheels: Annotated[bool, typer.Option("--wheels", help="Also the packages of this environment, for a machine without internet.")] = False,
    loops: Annotated[bool, typer.Option("--loops", help="Also compile the loops of curation, for nodes with this machine's processor.")] = False,
    config_dir: Annotated[Path | None, typer.Option(help="Folder with recipes of your own, as for the verbs.")] = None,
    from_folder: Annotated[
        Path | None, typer.Option(help="Take the tasks' data from a folder of files, OWNER/NAME/..., instead of the hub; nothing is downloaded.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Download nothing: compare every file with its checksum and say what is missing.")] = False,
) -> None:
    """Gather what a job needs from elsewhere into one folder, so that it runs with every hub switched off."""
    from iberlm.cli.hydra_app import compose_settings
    from iberlm.cli.verbs import VERBS

    if verb not in VERBS:
        raise ConfigError(f"prefetch: there is no verb '{verb}'; choose among {', '.join(VERBS)}")
    given = overrides or []
    config = compose_settings(VERBS[verb], given, config_dir)
    if not (out or config.cluster.bundle):
        raise ConfigError("prefetch: give the bundle's folder: --out FOLDER, or the setting cluster.bundle")
    bundle = out or Path(config.cluster.bundle)
    needs = needs_of(VERBS[verb].recipe, config)
    if check:
        _check(bundle, needs, config, prefetch_command(verb, given, str(bundle), str(config_dir or "")))
        return
    if from_folder is not None:
        _take(bundle, needs, from_folder)
        return
    _gather(bundle, needs, config, wheels=wheels, loops=loops)
    for remark in _remarks(needs, config, verb, given):
        say(f"prefetch: {remark}")
    say(f"prefetch: {bundle} is complete; jobs find it with cluster.bundle={shlex.quote(str(bundle.absolute()))}")


def _check(bundle: Path, needs: list[Need], config: StageConfig, command: str) -> None:
    from iberlm.launch.offline.bundle import RECORD, check_bundle, missing

    if not (bundle / RECORD).is_file() and any(need.kind in (MODEL, TOKENIZER, DATASET) for need in needs):
        raise ConfigError(f"{bundle} is no bundle: it has no {RECORD}; fill it with {command}")
    config.cluster.compute_internet, config.cluster.bundle = False, str(bundle)
    problems = list(dict.fromkeys(check_bundle(bundle, needs, checksums=True) + missing(needs, config.cluster, Path(config.run_dir))))
    if problems:
        raise ResourceError("the job would not find everything:\n  " + "\n  ".join(problems) + f"\nto gather what comes from a hub: {command}")
    say(f"prefetch: {bundle} has everything that the job needs, whole")


def _take(bundle: Path, needs: list[Need], folder: Path) -> None:
    """Stage data sets from a folder."""
    from iberlm.launch.offline.prefetch import gather_from_folder

    if not folder.is_dir():
        raise ConfigError(f"prefetch: --from-folder: there is no folder {folder}")
    if not any(need.kind == DATASET for need in needs):
        raise ConfigError("prefetch: --from-folder: these settings need no data set that could be taken from a folder")
    gather_from_folder(bundle, needs, folder)
    say(f"prefetch: {bundle} has the data of the tasks; evaluations find it with data={shlex.quote(str(bundle.absolute()))}")


def _gather(bundle: Path, needs: list[Need], config: StageConfig, *, wheels: bool, loops: bool) -> None:
    from iberlm.launch.offline import prefetch as work
    from iberlm.launch.offline.bundle import path_problems

    if refused := [f"{need.used_by}: {need.name} {need.remark}" for need in needs if need.kind == REFUSED]:
        raise ConfigError("prefetch: no bundle can hold this:\n  " + "\n  ".join(refused))
    if absent := [problem for need in needs if need.kind == PATH for problem in path_problems(need, Path(config.run_dir))]:
        say("prefetch: this must be there where the job runs, and is not here:\n  " + "\n  ".join(absent))
    work.gather(bundle, needs)
    if wheels:
        from iberlm.launch.offline.wheels import OURS, closure, gather_wheels

        roots = [OURS, *(need.name for need in needs if need.kind == PACKAGE and _is_distribution(need.name))]
        work.record(bundle, gather_wheels(bundle, closure(roots), config.cluster.architecture))
    if loops:
        say("prefetch: compiling the loops of curation")
        with tempfile.TemporaryDirectory() as folder:
            # the embedded sample runs through all of them
            line = [sys.executable, "-m", "iberlm", "run", "pipeline=demo", "stages=[fetch,curate]", f"run_dir={folder}/run"]
            work.compile_loops(bundle, line)


def _is_distribution(name: str) -> bool:
    """Not so the user's own modules (monitor.hooks), which need not be installed."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _remarks(needs: list[Need], config: StageConfig, verb: str, overrides: list[str]) -> list[str]:
    """What a bundle does not hold, and the job must find otherwise."""
    found = [f"{need.used_by}: '{need.name}' is no part of a bundle; it must lie there where the job runs" for need in needs if need.kind == PATH]
    if any(need.kind == DOWNLOAD for need in needs):
        # no cluster here: this machine downloads
        rest = [entry for entry in overrides if not entry.lstrip("+~").startswith(("cluster", "stages"))]
        line = ["iberlm", verb, *rest, *(["stages=[fetch]"] if verb == "run" else [])]
        found.append(f"what the fetch stage downloads is no part of a bundle; where there is internet run: {shlex.join(line)}, and copy {config.run_dir}")
    return found
