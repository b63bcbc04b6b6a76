"""The `iberlm` command: stage verbs are Hydra applications on `recipes/VERB.yaml`, tools are plain typer commands.

Stages are imported where they are used, so that help answers at once.
"""

import os
import sys
from pathlib import Path

from iberlm import __version__
from iberlm.cli.verbs import VERBS, Verb
from iberlm.core.errors import ConfigError, IberlmError

INTERRUPTED_STATUS = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Entry point: run the command line and exit with its status."""
    # before any library starts its threads: spinning ones waste cores that others use too (docs/benchmarks.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # DeepSpeed calls ninja, which lies beside this interpreter: the environment need not be activated
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    try:
        status = _dispatch(sys.argv[1:])
    except IberlmError as error:
        _complain(error)
        status = error.exit_status
    except KeyboardInterrupt:
        print("iberlm: interrupted; run the same command again to go on", file=sys.stderr)
        status = INTERRUPTED_STATUS
    except BrokenPipeError:  # `iberlm ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _complain(error: IberlmError) -> None:
    label = "\x1b[31miberlm:\x1b[0m" if sys.stderr.isatty() else "iberlm:"
    print(f"{label} {error}", file=sys.stderr, flush=True)


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if command == "--version":
        print(f"iberlm {__version__}")
        return 0
    if command in VERBS:
        return _run_verb(VERBS[command], rest)
    if command == "completion":
        from iberlm.cli.completion import completion_command

        return completion_command(rest)
    if command in TOOLS:
        from iberlm.cli.tools import run_tool

        return run_tool(arguments)
    import difflib

    known = [*VERBS, *TOOLS]
    close = difflib.get_close_matches(command, known, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"choose among {', '.join(known)}"
    raise ConfigError(f"unknown command '{command}'; {hint} (iberlm --help)")


TOOLS = {
    "cards": "validate, list and begin data cards",
    "inspect": "look at documents of a run: kept or dropped, why, what was cut",
    "calibrate": "limits for the filters from a trusted sample",
    "locate": "find passages that are to be cut, as requests for removal",
    "train-quality": "train the classifier behind quality_score",
    "train-langid": "train the language identifier",
    "measure-tokenizer": "tokenizers side by side: tokens a word, cost by language, dead pieces",
    "plan": "what a run needs: memory, tokens a second, jobs, GPU-hours, energy",
    "doctor": "what is missing on this machine; whether a cluster's profile is true",
    "prefetch": "gather what nodes without internet will need into one folder",
    "status": "the jobs of a run: what runs, how far, what failed and why",
    "logs": "the log of a job",
    "cancel": "cancel the jobs of a run",
    "compare": "two models, or one in two settings, item by item: which is better, and what cannot be seen",
    "leaderboard": "a static page of results with intervals, tables for papers and cards",
    "watch": "evaluate checkpoints while a model trains",
    "items": "the items of a suite as files, to search a corpus for",
    "results": "list, merge, check and compact result stores",
    "review-items": "a form for people to judge a task's items, and what they said",
    "lineage": "which training steps read a document",
    "resize-embeddings": "give a model another tokenizer",
    "export-checkpoint": "a checkpoint as a Hugging Face model folder",
    "export": "a model and its tokenizer as one GGUF file",
    "completion": "print shell completion for bash, zsh or fish",
}


def _overview() -> str:
    lines = [
        "iberlm: text to an evaluated language model in es, ca, ca-valencia, eu, gl",
        "",
        "usage: iberlm VERB [Hydra overrides]   (iberlm VERB --help)",
        "",
    ]
    lines += ["the line:"] + [f"  {verb.name:<16} {verb.summary}" for verb in VERBS.values()]
    lines += ["", "tools:"] + [f"  {name:<16} {summary}" for name, summary in TOOLS.items()]
    lines += [
        "",
        "first steps:",
        "  iberlm run pipeline=demo                 the whole line on the embedded sample",
        "  iberlm run pipeline=demo --cfg job       every setting of it",
    ]
    return "\n".join(lines)


def _run_verb(verb: Verb, arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        from iberlm.cli.verb_help import verb_help

        print(verb_help(verb))
        return 0
    if arguments and arguments[0] == "--frozen":
        from iberlm.cli.frozen import run_frozen

        return run_frozen(verb, arguments)
    from iberlm.cli.hydra_app import hydra_main

    return hydra_main(verb, arguments)
