"""Tokenizers: tokens a word beside peers, curves, speed of encoding and reading, memory of training, and extension.

    python benchmarks/tokenizer.py peers FOLDER
    python benchmarks/tokenizer.py fertility DOCUMENTS ... --parallel FOLDER/declaration --peers FOLDER [--peer NAME=PATH ...]
    python benchmarks/tokenizer.py curve DOCUMENTS ... --parallel FOLDER/declaration
    python benchmarks/tokenizer.py extend DOCUMENTS ... --base FOLDER/llama3 --parallel FOLDER/declaration
    python benchmarks/tokenizer.py encode DOCUMENTS --tokenizer TRAINED ...
    python benchmarks/tokenizer.py read
    python benchmarks/tokenizer.py memory DOCUMENTS --gigabytes 1 2 5 10

DOCUMENTS is a folder of the curate stage, TRAINED one of the train-tokenizer stage. `peers` fetches other tokenizers and the Universal
Declaration of Human Rights with npm and pip. Everything is done in a temporary folder that is deleted (`--folder` says where), and prints
tables in Markdown. Seconds are CPU seconds unless said otherwise, MB are 10^6 bytes of UTF-8; what is timed runs in a process of its own on
one core.

- fertility: our algorithms, splits and mixtures, trained on documents that do not have the parallel text in them, and peers as they are.
- curve: tokens a word by text a language and by vocabulary.
- extend: pieces added to a tokenizer, before and after.
- encode: the encoders alone and their ids, 100,000 lines by AutoTokenizer, and `iberlm tokenize`.
- read: a store of a billion tokens is made and read as training reads it.
- memory: training on text made to have different words as real text of that size would.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import tokenizer_quality
import tokenizer_speed
from dedup import machine
from tokenizer_peers import PEERS, fetch

PROGRAMS = {"encoder": tokenizer_speed.encode_once, "lines": tokenizer_speed.compare_lines, "reader": tokenizer_speed.read_store}
"""Run by the commands in processes of their own."""


def named(value: str) -> tuple[str, Path]:
    """NAME=PATH."""
    name, equals, path = value.partition("=")
    if not (name and equals and Path(path).exists()):
        raise argparse.ArgumentTypeError(f"'{value}': not NAME=PATH of an existing tokenizer")
    return name, Path(path)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("peers", help="fetch other tokenizers and the Declaration").add_argument("out", type=Path)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--folder", type=Path, help="where to work; the system's temporary folder otherwise")
    common.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core that timed work runs on")
    common.add_argument("--runs", type=int, default=3)
    quality = argparse.ArgumentParser(add_help=False, parents=[common])
    quality.add_argument("documents", type=Path, nargs="+", help="folders of the curate stage")
    quality.add_argument("--parallel", type=Path, required=True, help="folder with LANG.txt files whose lines say the same")

    command = commands.add_parser("fertility", parents=[quality], help="tokens a word beside peers")
    command.add_argument("--peers", type=Path, help="folder that `peers` filled")
    command.add_argument("--peer", type=named, nargs="+", default=[], metavar="NAME=PATH")
    command.add_argument("--megabytes", type=float, default=20.0, help="text a language")
    command.add_argument("--vocabulary", type=int, default=64_000)
    command.add_argument("--only", nargs="+", choices=list(tokenizer_quality.TRAININGS), default=[])
    command = commands.add_parser("curve", parents=[quality], help="tokens a word by text and vocabulary")
    command.add_argument("--megabytes", type=float, nargs="+", default=[1, 2, 5, 10, 20])
    command.add_argument("--vocabularies", type=int, nargs="+", default=[16_000, 32_000, 64_000, 128_000])
    command.add_argument("--split", choices=tokenizer_quality.SPLITS, default="elision")
    command = commands.add_parser("extend", parents=[quality], help="pieces added to a tokenizer")
    command.add_argument("--base", type=Path, required=True, help="folder with a tokenizer.json")
    command.add_argument("--pieces", type=int, default=8_192)
    command.add_argument("--megabytes", type=float, default=20.0, help="text a language")

    command = commands.add_parser("encode", parents=[common], help="speed of encoders and of `iberlm tokenize`, and their ids")
    command.add_argument("documents", type=Path)
    command.add_argument("--tokenizer", type=Path, nargs="+", required=True, help="folders of the train-tokenizer stage")
    command.add_argument("--times", type=int, nargs="+", default=[1, 4, 16], help="sizes for the memory of `iberlm tokenize`: the documents so often over")
    command = commands.add_parser("read", parents=[common], help="random windows and batches of a large store")
    command.add_argument("--tokens", type=float, default=1e9, help="2 bytes of disk each")
    command.add_argument("--batch", type=int, default=64, help="samples a batch")
    command = commands.add_parser("memory", parents=[common], help="training on large samples")
    command.add_argument("documents", type=Path)
    command.add_argument("--gigabytes", type=float, nargs="+", default=[1, 2, 5, 10], help="half as much disk")
    command.add_argument("--vocabulary", type=int, default=64_000)
    command.add_argument("--override", nargs="+", default=[], help="settings for `iberlm train-tokenizer`")
    for name in PROGRAMS:
        commands.add_parser(name).add_argument("settings", type=Path)
    return parser


def main() -> None:
    """Run a command."""
    arguments = options().parse_args()
    if arguments.command in PROGRAMS:
        settings: dict[str, Any] = json.loads(arguments.settings.read_text())
        Path(settings["result"]).write_text(json.dumps(PROGRAMS[arguments.command](settings)))
        return
    if arguments.command == "peers":
        fetch(arguments.out)
        return
    if arguments.command == "fertility" and arguments.peers:
        arguments.peer += [(name, arguments.peers / place) for name, place in PEERS.items() if (arguments.peers / place).exists()]
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    print(machine("iberlm", "sentencepiece", "tokenizers", "gigatoken", "transformers", "numpy", "pyarrow"))
    print("load of the machine before: " + ", ".join(f"{load:.1f}" for load in os.getloadavg()), flush=True)
    run = getattr(tokenizer_speed if arguments.command in ("encode", "read", "memory") else tokenizer_quality, arguments.command)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run(arguments, Path(folder).absolute())
    print("load of the machine after: " + ", ".join(f"{load:.1f}" for load in os.getloadavg()), file=sys.stderr)


if __name__ == "__main__":
    main()
