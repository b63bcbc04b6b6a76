"""Debian packages as a source of translated documentation: downloaded with apt, unpacked in part, never installed."""

import shutil
import subprocess
import tarfile
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from iberlm.cards import Card
from iberlm.core.errors import CardError, DataError, ResourceError
from iberlm.core.progress import progress, say
from iberlm.sources.config import SourceConfig
from iberlm.sources.entries import FileEntry, describe
from iberlm.sources.formats import format_of

DOWNLOADS = ".packages"

MAX_MEMBER_BYTES = 256 << 20
MAX_PACKAGE_BYTES = 4 << 30
"""Limits on what one package may unpack to."""

_BLOCK_BYTES = 1 << 20


def gather(name: str, source: SourceConfig, card: Card, folder: Path, root: Path) -> list[FileEntry]:
    """Unpack what `include` selects of each package below `folder`/PACKAGE; return the entries, relative to `root`.

    A package's copyright file is kept beside as the evidence of its licence. Raises `ResourceError` when apt or
    dpkg-deb is missing or a package cannot be had, `DataError` when nothing in a package matches `include`.
    """
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run may have left half a package
    packages = _obtain(name, source.packages, folder / DOWNLOADS)
    entries: list[FileEntry] = []
    with progress(f"fetch {name}", len(packages), "packages") as advance:
        for package in packages:
            entries += _unpack(name, package, source, card, folder, root)
            advance(1, package.name)
    shutil.rmtree(folder / DOWNLOADS, ignore_errors=True)
    return entries


def _obtain(name: str, wanted: list[str], folder: Path) -> list[Path]:
    """Package files in the order wanted: the user's own, and those that apt downloads into `folder` (all in one call: it reads its lists once)."""
    folder.mkdir(parents=True)
    from_apt = [package for package in wanted if not package.endswith(".deb")]
    if from_apt:
        mend = "see whether `apt-cache policy` knows the package and version; `apt-get update` refreshes the lists"
        _run(name, ["apt-get", "download", "-q", "--", *from_apt], folder, mend)
    paths = []
    for package in wanted:
        found = list(folder.glob(f"{package.partition('=')[0]}_*.deb")) if package in from_apt else [Path(package).absolute()]
        if len(found) != 1 or not found[0].is_file():
            raise DataError(f"corpus.sources.{name}.packages: there is no package file for '{package}'")
        paths += found
    return paths


def _run(name: str, command: list[str], folder: Path, mend: str) -> str:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise ResourceError(
            f"corpus.sources.{name}: the program '{command[0]}' is missing; Debian sources need a Debian or Ubuntu machine. "
            "Run `iberlm fetch` on one and copy its folder, or give packages as './file.deb' where dpkg-deb is installed"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith(("E:", "dpkg-deb:"))] or error.stderr.splitlines()[-1:]
        raise ResourceError(f"corpus.sources.{name}: `{' '.join(command)}` failed ({' '.join(lines)[:300]}); {mend}") from None


def _unpack(name: str, package: Path, source: SourceConfig, card: Card, folder: Path, root: Path) -> list[FileEntry]:
    fields = _run(
        name, ["dpkg-deb", "--show", "--showformat=${Package}\t${Version}", str(package)], package.parent, "the package file is damaged; fetch it again"
    )
    title, version = fields.split("\t")
    _check_covered(name, title, card)
    target = folder / title
    entries = []
    for inner, path, modified in _select(name, package, source.include, title, target):
        date = datetime.fromtimestamp(modified, UTC).date().isoformat()
        entries.append(describe(path, root, name=name, inner=f"{title}={version}/{inner}", form=format_of(path), source=source, card=card, date=date))
    if not entries:
        raise DataError(f"corpus.sources.{name}.include: nothing in {title} {version} matches {', '.join(source.include)}; see `dpkg-deb --contents`")
    if not (target / "copyright").is_file():
        say(f"fetch {name}: {title} carries no copyright file of its own: check the licence on its card")
    return sorted(entries, key=lambda entry: entry.source)


def _check_covered(name: str, title: str, card: Card) -> None:
    """A card speaks for the packages that it lists: the next one may have another licence."""
    covered = [package.partition("=")[0] for package in card.source.packages] if card.source is not None else []
    if covered and title not in covered:
        raise CardError(
            f"corpus.sources.{name}.packages: card '{card.name}' does not cover the package '{title}', only {', '.join(covered)}; "
            "check its copyright file and add it to the card, or give it a card of its own"
        )


def _select(name: str, package: Path, include: list[str], title: str, target: Path) -> list[tuple[str, Path, float]]:
    """Write the package's regular files that match; return inner path, path here and modification time of each."""
    selected: list[tuple[str, Path, float]] = []
    total = 0
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                inner = PurePosixPath(member.name).as_posix().removeprefix("/")
                is_copyright = inner == f"usr/share/doc/{title}/copyright"
                if not member.isfile() or ".." in PurePosixPath(inner).parts or not (is_copyright or any(fnmatchcase(inner, pattern) for pattern in include)):
                    continue
                total += member.size
                if member.size > MAX_MEMBER_BYTES or total > MAX_PACKAGE_BYTES:
                    raise DataError(f"corpus.sources.{name}: {title} unpacks to more than the limits ({inner} has {member.size} bytes); narrow `include`")
                path = target / ("copyright" if is_copyright else inner)
                _copy(archive, member, path)
                if not is_copyright and member.size:
                    selected.append((inner, path, member.mtime))
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"corpus.sources.{name}: {package.name} is damaged ({error}); fetch it again") from error
    finally:
        process.stdout.close()
        process.wait()
    return selected


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    stream = archive.extractfile(member)
    assert stream is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    # not published one by one: the source's list of files, written last, says that all are whole; a sync for each of
    # ten thousand small files takes minutes
    with path.open("wb") as copy:
        while block := stream.read(_BLOCK_BYTES):
            copy.write(block)
