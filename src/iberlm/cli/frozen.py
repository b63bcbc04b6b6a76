"""`iberlm VERB --frozen FILE`: a verb on settings that were resolved and written down before; what batch jobs and pipelines run.

    --share I/N           of a sharded stage, only every Nth shard from the Ith on; then end
    --until STAGE         of a verb of several stages (curate), end after this one
    --ranks before        check and freeze a run of several ranks; leave in the job's folder what srun is to start
    --ranks after=STATUS  judge what the ranks reported, srun having ended with STATUS, and complete the stage

The job's folder is the one that FILE lies in.
"""

import argparse
import contextlib
import re
from pathlib import Path
from typing import NoReturn

from iberlm.cli.verbs import Verb
from iberlm.core.errors import ConfigError
from iberlm.core.ranks import Elsewhere, ranks_elsewhere
from iberlm.core.scope import Scope, within


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"--frozen: {message}")


def run_frozen(verb: Verb, arguments: list[str]) -> int:
    """Run `verb` as the options say; return the exit status. Raises `ConfigError` for options that make no sense."""
    from iberlm.cli.hydra_app import frozen_config

    parser = _Parser(prog=f"iberlm {verb.name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--frozen", type=Path, required=True)
    parser.add_argument("--share", type=_share)
    parser.add_argument("--until", default="")
    parser.add_argument("--ranks", type=_ranks)
    options = parser.parse_args(arguments)
    config = frozen_config(verb, options.frozen)
    with contextlib.ExitStack() as stack:
        stack.enter_context(within(Scope(options.share, options.until)))
        if options.ranks is not None:
            stack.enter_context(ranks_elsewhere(Elsewhere(options.frozen.parent.absolute(), options.ranks[0])))
        return verb.execute(config)


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"'{text}' is no share; write I/N with I below N, such as 0/8")
    return int(found[1]), int(found[2])


def _ranks(text: str) -> tuple[int | None]:
    if text == "before":
        return (None,)
    if found := re.fullmatch(r"after=(\d+)", text):
        return (int(found[1]),)
    raise argparse.ArgumentTypeError(f"'{text}' is neither 'before' nor 'after=STATUS'")
