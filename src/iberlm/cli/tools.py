"""The tools beside the line, as typer commands. What a tool needs is imported when it runs: `--help` must not wait for it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from iberlm.cli import compare_tool, doctor_tool, items_tool, job_tools, leaderboard_tool, prefetch_tool, results_tool, review_tool, watch_tool
from iberlm.cli.verbs import Verb
from iberlm.core.errors import ConfigError, IberlmError, ResourceError
from iberlm.core.languages import LANGUAGES, NAMES, UNDETERMINED, check_language

app = typer.Typer(name="iberlm", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
cards = typer.Typer(no_args_is_help=True, help="Validate, list and begin data cards.")
app.add_typer(cards, name="cards")
app.add_typer(results_tool.app, name="results")

app.command("status")(job_tools.status)
app.command("logs")(job_tools.logs)
app.command("cancel")(job_tools.cancel)
app.command("doctor")(doctor_tool.doctor)
app.command("prefetch")(prefetch_tool.prefetch)
app.command("compare")(compare_tool.compare)
app.command("leaderboard")(leaderboard_tool.leaderboard)
app.command("watch")(watch_tool.watch)
app.command("items")(items_tool.items)
app.command("review-items")(review_tool.review_items)

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, such as runs/default.")]


@app.callback()
def _tools() -> None:
    """Tools beside the line."""


@cards.command("validate")
def cards_validate(paths: Annotated[list[Path] | None, typer.Argument(help="Card files or folders; all known cards when none is given.")] = None) -> None:
    """Check data cards: one line a problem, `file:line field - problem - mend`. Exit status 3 if there is any."""
    from iberlm.cards import command

    raise typer.Exit(command.validate(paths or ()))


@cards.command("new")
def cards_new(
    name: Annotated[str, typer.Argument(help="Name of the data set: small letters, digits, '_' and '-'.")],
    folder: Annotated[Path, typer.Option(help="Where the card is written.")] = Path("data_cards"),
) -> None:
    """Begin a data card: a commented file whose blanks `cards validate` then names."""
    from iberlm.cards import command

    raise typer.Exit(command.new(name, folder))


@cards.command("list")
def cards_list() -> None:
    """List the data cards: name, languages, licence, permitted uses, version."""
    from iberlm.cards import command

    raise typer.Exit(command.show_list())


@app.command("inspect")
def inspect_run(
    run_dir: RunDir,
    language: Annotated[str, typer.Option(metavar="TAG", help="Only documents of this language; 'und' for those of none of the five.")] = "",
    reason: Annotated[str, typer.Option(help="Only documents dropped for this reason of the funnel, or 'kept'.")] = "",
    number: Annotated[int, typer.Option(min=1, help="How many documents are drawn.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other documents.")] = 0,
    document: Annotated[str, typer.Option("--id", metavar="ID", help="Show this document instead of a draw.")] = "",
    characters: Annotated[int, typer.Option(min=0, help="Characters shown of each text; 0 shows all.")] = 800,
    personal_data: Annotated[bool, typer.Option("--personal-data", help="Show personal data as they are, not as tags.")] = False,
) -> None:
    """Look at documents of a finished run: kept or dropped, why, beyond which limits, what was cut.

    The documents are drawn at random among all that match. In the text [-passages that were cut-], {=texts of an evaluation=} and personal
    data (<EMAIL>) are marked. RUN_DIR may be the folder of one selection of a sweep.
    """
    from rich.console import Console

    from iberlm.cli.curated_run import selection
    from iberlm.curate.inspect import Wanted, inspect
    from iberlm.curate.inspect_view import show

    if language:
        _known_language("inspect --language", language, (*LANGUAGES, UNDETERMINED))
    selected, inputs = selection(run_dir)
    console = Console(highlight=False, emoji=False)
    wanted = Wanted(language=language, reason=reason, document=document, number=number, seed=seed)
    for found in inspect(inputs, selected, wanted):
        show(console, found, characters=characters, personal_data=personal_data)


@app.command("calibrate")
def calibrate_filters(
    run_dir: RunDir,
    share: Annotated[float, typer.Option(help="Share of the trusted documents that one limit may drop, 0 to 0.2.")] = 0.01,
    language: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Language to calibrate (again for each); all when none.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the recipe and the page; RUN_DIR/calibration when none is given.")] = None,
) -> None:
    """Find limits for the filters from a trusted sample: a run of `iberlm curate` on texts that somebody vouches for.

    Writes the recipe filters/calibrated.yaml and calibration.html, with the distributions, and prints what each rule would drop of the sample.
    """
    from iberlm.cli.curated_run import annotated
    from iberlm.core.files import disk_errors
    from iberlm.curate.calibrate import calibrate, table_lines, write_calibration

    for tag in language or ():
        _known_language("calibrate --language", tag, LANGUAGES)
    inputs = annotated(run_dir)
    calibrations = calibrate(inputs, share=share, languages=list(dict.fromkeys(language or ())))
    folder = out or run_dir / "calibration"
    names = ", ".join(sorted({name for manifest in inputs for name in manifest.cards})) or "documents without a card"
    with disk_errors(folder):
        _, page = write_calibration(calibrations, share, names, folder)
    print("\n".join(table_lines(calibrations)))
    print(f"\nlook at {page}, then: iberlm curate --config-dir {folder} filters=calibrated")


@app.command("locate")
def locate_passages(
    run_dir: RunDir,
    passages: Annotated[Path, typer.Argument(metavar="PASSAGES", help="Passages that are to be cut, a JSON object a line: text, requested, reason.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the requests; RUN_DIR/locate when none is given.")] = None,
) -> None:
    """Find passages that are known by their words, and write them as requests for removal: places, and none of the words."""
    from iberlm.cli.curated_run import extracted
    from iberlm.curate import locate

    found = locate.run(locate.LocateConfig(passages=str(passages)), [extracted(run_dir)], out or run_dir / "locate")
    places = found.metrics["occurrences"]
    print(f"passages found: {found.metrics['passages_found']} of {found.metrics['passages']}, in {places} {'place' if places == 1 else 'places'}")
    for path in found.paths(suffix=".jsonl"):
        print(f"to cut them: iberlm curate run_dir={run_dir} 'select.removals=[{path}]'")


@app.command("train-quality")
def train_quality(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the model, for `iberlm curate quality.model=OUT`.")],
    positive: Annotated[list[Path], typer.Option(help="File or folder of good texts (again for each): JSONL, Parquet or one text a line.")],
    negative: Annotated[list[Path], typer.Option(help="File or folder of other texts (again for each).")],
    text_field: Annotated[str, typer.Option(help="Where a record has its text.")] = "text",
    held_out_share: Annotated[float, typer.Option(help="Share of the texts that measure the model, 0.01 to 0.5.")] = 0.1,
    max_characters: Annotated[int, typer.Option(help="Characters of each text that are read.")] = 4000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the texts.")] = 4,
    bits: Annotated[int, typer.Option(min=10, max=24, help="The model has 2 to this power features.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Another seed holds out other texts.")] = 0,
) -> None:
    """Train the classifier behind quality_score from two sets of texts, and measure it on texts that it has not seen."""
    from iberlm.curate import train_quality as training

    status = training.train_quality(
        positive,
        negative,
        out,
        text_field=text_field,
        held_out_share=held_out_share,
        max_characters=max_characters,
        epochs=epochs,
        bits=bits,
        seed=seed,
    )
    raise typer.Exit(status)


@app.command("train-langid")
def train_langid(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe such as recipes/langid/iberlm.yaml.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the models.")],
) -> None:
    """Train the language identifier from the texts that a recipe names, and measure it on sources that it has not seen."""
    from iberlm.curate.langid import train

    raise typer.Exit(train.train_langid(recipe, out))


@app.command("measure-tokenizer")
def measure_tokenizer(
    tokenizers: Annotated[list[Path], typer.Argument(metavar="TOKENIZER...", help="Folders, or files: tokenizer.json, *.model, *.tiktoken, tekken.json.")],
    documents: Annotated[Path | None, typer.Option(help="Folder of a curate stage, whose validation documents are measured.")] = None,
    parallel: Annotated[Path | None, typer.Option(help="Folder of LANG.txt files, line by line the same; empty: the one that comes with IberLM.")] = None,
    text: Annotated[list[str] | None, typer.Option(metavar="LANG=FILE", help="A text file to measure (again for each).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for measure.json and measure.html.")] = None,
) -> None:
    """Measure tokenizers side by side: tokens a word, bytes a token, cost of the same content by language, dead pieces."""
    from iberlm.tokenizer.measure_command import measure_command

    raise typer.Exit(measure_command(tokenizers, documents=documents, parallel=parallel, texts=text or [], out=out))


@app.command("plan")
def plan_run(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="What is planned: pretrain; with cluster=NAME any verb, and run.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]", help="Hydra overrides, as for the verb itself.")] = None,
    machine: Annotated[str, typer.Option(help="Name of a machine; an unknown name shows those that are known. With cluster=NAME it is that one.")] = "",
    config_dir: Annotated[Path | None, typer.Option(help="Folder with recipes of your own, as for the verbs.")] = None,
    devices: Annotated[int | None, typer.Option(help="Devices of the run.")] = None,
    memory_gib: Annotated[float | None, typer.Option(help="Memory of one device.")] = None,
    peak_tflops: Annotated[float | None, typer.Option(help="Dense bf16 peak of one device.")] = None,
    mfu: Annotated[float | None, typer.Option(help="Share of the peak that training reaches, 0 to 1.")] = None,
    watts: Annotated[float | None, typer.Option(help="Of one device under load.")] = None,
    pue: Annotated[float | None, typer.Option(help="Energy of the building over energy of the machine.")] = None,
    network_gb_s: Annotated[float | None, typer.Option(help="What one node can take in from the others.")] = None,
    bandwidth_gb_s: Annotated[float | None, typer.Option(help="What a checkpoint is written at.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a run needs before it is begun: memory a device, tokens a second, hours, energy. Exit status 6 when it cannot fit.

    With cluster=NAME also the jobs that would be submitted, GPU-hours and core-hours, storage, and the limits that they
    would break (exit status 6, too).
    """
    import dataclasses
    import json

    from iberlm.cli.hydra_app import compose_settings
    from iberlm.cli.verbs import VERBS
    from iberlm.launch.plan import as_json as jobs_as_json
    from iberlm.launch.plan import plan_lines
    from iberlm.train import machines, plan

    if verb not in VERBS:
        raise ConfigError(f"plan: there is no verb '{verb}'; choose among {', '.join(VERBS)}")
    settings = compose_settings(VERBS[verb], overrides or [], config_dir)
    requests = _requests(VERBS[verb], settings)
    if verb != "pretrain" and requests is None:
        raise ConfigError(f"plan: '{verb}' on this machine is not planned; choose pretrain, or give cluster=NAME of a Slurm cluster")
    known = None
    if verb == "pretrain" and (requests is None or machine or settings.cluster.name in machines.MACHINES):
        facts = {"devices": devices, "memory_gib": memory_gib, "peak_tflops": peak_tflops, "mfu": mfu, "watts": watts, "pue": pue}
        facts |= {"network_gb_s": network_gb_s, "bandwidth_gb_s": bandwidth_gb_s}
        if requests is not None and devices is None:
            facts["devices"] = settings.cluster.ranks
        known = machines.machine(machine or settings.cluster.name, **{key: value for key, value in facts.items() if value is not None})
    found = plan.plan_pretrain(settings, known) if known else None
    if as_json:
        run = dataclasses.asdict(found) if found else {}
        submission = None if requests is None else jobs_as_json(requests, ask_slurm=True)
        print(json.dumps(run if submission is None else {"run": run, "submission": submission}, indent=2, ensure_ascii=False))
        refused = bool(submission and submission["refused"])
    else:
        jobs = [] if requests is None else plan_lines(requests, ask_slurm=True)
        print("\n\n".join("\n".join(part) for part in (plan.lines(found) if found else [], jobs) if part))
        refused = any(line.startswith("REFUSED") for line in jobs)
    if found:
        plan.check(found)
    if refused:
        raise typer.Exit(ResourceError.exit_status)


def _requests(verb: Verb, settings: Any) -> list[Any] | None:
    """What would be submitted; None where nothing would, because the verb runs here."""
    stages = [getattr(settings, stage) for stage in settings.stages] if verb.name == "run" else [settings]
    if not any(stage.cluster.is_slurm for stage in stages):
        return None
    from iberlm.cli.cluster_run import planned
    from iberlm.launch.submit import requests_of

    return requests_of(planned(verb, settings))


@app.command("lineage")
def lineage_of(
    document: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Id of a document, as `iberlm inspect` shows it.")],
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say which training steps read a document, token by token, exactly."""
    from iberlm.train.lineage import main_lines

    print("\n".join(main_lines(document, run_dir, as_json=as_json)))


@app.command("resize-embeddings")
def resize_embeddings(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Hugging Face folder of a causal language model, with its tokenizer.")],
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Folder of the new tokenizer, or of a train-tokenizer stage.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new model.")],
) -> None:
    """Give a model another tokenizer: embeddings of equal pieces are copied, the others begin as the mean of their old pieces."""
    from iberlm.train.embeddings import resize_embeddings as resize

    resize(model, tokenizer, out)


@app.command("export-checkpoint")
def export_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a checkpoint, such as RUN_DIR/pretrain/checkpoints/step-00001000.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the model; must not exist.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of its tokenizer, when it is no longer where the run found it.")] = None,
    precision: Annotated[str, typer.Option(help="Type of the weights: fp32 or bf16.")] = "fp32",
) -> None:
    """Write a Hugging Face model folder from a checkpoint of any strategy; its logits are those of the model in training."""
    from iberlm.train.checkpoint_model import checkpoint_to_model

    checkpoint_to_model(checkpoint, out, tokenizer=tokenizer, precision=precision)


@app.command("export")
def export_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Hugging Face folder of a model, such as RUN_DIR/pretrain/model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, ending in .gguf.")],
    precision: Annotated[str, typer.Option(help="Type of the weights: f32, f16, bf16 or q8_0.")] = "bf16",
) -> None:
    """Write a model and its tokenizer as one GGUF file for llama.cpp and the programs built on it."""
    from iberlm.export.gguf import export_gguf

    export_gguf(model, out, precision=precision)


def _known_language(option: str, tag: str, among: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a tag that is none of `among`, with the tag that was meant where that can be told."""
    if tag in among:
        return
    import difflib

    names = {NAMES[known].lower(): known for known in among} | {known: known for known in among}
    if close := difflib.get_close_matches(tag.lower(), names, 1):
        raise ConfigError(f"{option}: unknown language '{tag}'; did you mean '{names[close[0]]}'? Choose among {', '.join(among)}")
    check_language(tag, option, among=among)


_ClickError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Base of typer's complaints about a command line; typer brings its own click in newer versions."""


def run_tool(arguments: list[str]) -> int:
    """Run a tool with its arguments; return the exit status. Raises `ConfigError` for a wrong command line, and what the tool raises."""
    try:
        status = app(args=arguments, prog_name="iberlm", standalone_mode=False)
    except IberlmError:
        raise
    except typer.Abort as error:  # what typer makes of Ctrl-C
        raise KeyboardInterrupt from error
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return ConfigError.exit_status
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        raise ConfigError(f"{arguments[0]}: {message} (iberlm {arguments[0]} --help)") from error
    return status if isinstance(status, int) else 0
