"""What extraction needs: a package, when its slower engine is chosen."""

from iberlm.core.needs import Need, package_need
from iberlm.extract.config import ExtractConfig


def needs(config: ExtractConfig) -> list[Need]:
    """Packages beyond those of every installation."""
    return [package_need("trafilatura", "trafilatura", "extract.html_engine")] if config.html_engine == "trafilatura" else []
