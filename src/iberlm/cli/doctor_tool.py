"""`iberlm doctor`: composes the profile that is to be checked, and shows what was found."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from iberlm.core.errors import ConfigError
from iberlm.core.resources import resource_dir

_OVERRIDE = re.compile(r"\+{0,2}cluster(\.[\w.]+)?=.*", re.DOTALL)


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[cluster=NAME] [cluster.KEY=VALUE]", help="The profile that is checked, and its settings.")]


def doctor(
    overrides: Overrides = None,
    config_dir: Annotated[Path | None, typer.Option(help="Folder with profiles of your own, as for the verbs: cluster/NAME.yaml in it.")] = None,
    run_dir: Annotated[Path, typer.Option(help="Folder of a run, whose disk is checked.")] = Path("runs/default"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine, this installation and a cluster's profile; a mend for each finding. Exit status 6 if there is a problem.

    With cluster=NAME each fact of the profile that Slurm can tell is compared with what sinfo and scontrol say here.
    """
    from iberlm.cli.hydra_app import compose_settings
    from iberlm.cli.verbs import VERBS
    from iberlm.launch.doctor import examine as found

    for override in overrides or []:
        if not _OVERRIDE.fullmatch(override):
            raise ConfigError(f"doctor: '{override}' is not a setting of a cluster; write cluster=NAME or cluster.KEY=VALUE (--run-dir for the folder)")
    cluster = compose_settings(VERBS["pretrain"], overrides or [], config_dir).cluster
    findings = found.examine(cluster, run_dir, _profile(overrides or [], config_dir))
    if as_json:
        print(json.dumps(found.as_json(findings), indent=2, ensure_ascii=False))
    else:
        found.show(findings)
    raise typer.Exit(found.exit_status(findings))


def _profile(overrides: list[str], config_dir: Path | None) -> Path | None:
    """The file that `cluster=NAME` takes."""
    name = next((override.partition("=")[2] for override in reversed(overrides) if override.startswith("cluster=")), "")
    folders = [*([config_dir] if config_dir else []), resource_dir("slurm")]
    return next((path for folder in folders if (path := folder / "cluster" / f"{name}.yaml").is_file()), None)
