"""What the fetch stage needs: files of the user's, and what it downloads itself, which must happen where there is internet."""

from iberlm.core.needs import DOWNLOAD, Need, path_need
from iberlm.sources.config import FetchConfig, SourceConfig


def needs(config: FetchConfig) -> list[Need]:
    """Needs of every source of the corpus."""
    return [need for name, source in config.corpus.sources.items() for need in _of_source(f"corpus.sources.{name}", source)]


def _of_source(key: str, source: SourceConfig) -> list[Need]:
    if source.kind == "path":
        return [path_need(source.path, f"{key}.path")]
    if source.kind == "huggingface" and source.is_local_dataset:
        return [path_need(source.dataset, f"{key}.dataset")]
    if source.kind == "huggingface":
        return [Need(kind=DOWNLOAD, name=source.dataset, revision=source.revision, config=source.config_name, used_by=f"{key}.dataset")]
    if source.kind == "debian":
        return [
            path_need(package, f"{key}.packages")
            if package.endswith(".deb")
            else Need(kind=DOWNLOAD, name=f"Debian package {package}", used_by=f"{key}.packages")
            for package in source.packages
        ]
    return []
