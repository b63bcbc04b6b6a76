"""Shell completion: verbs, tools with their options, groups with their choices, every key of the configuration, and names of evaluation tasks.

`eval "$(iberlm completion bash)"`. The shell calls `iberlm completion words -- LINE...`; after a verb, and after a tool that takes its
overrides, the candidates come from Hydra's own completion on the verb's recipe, so they are what Hydra would accept. Hydra knows no elements
of lists: names of tasks and languages come from here, without it. Where there is no candidate, the shell offers files.
"""

import contextlib
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES

_LIST = re.compile(r"(?P<head>\+{0,2}(?P<key>[\w.-]+)=(?:.*[{,]\s*(?P<tag>[\w-]+):\s*)?\[(?P<given>[^\[\]]*,\s*)?)(?P<begun>[^\[\],\s]*)")
"""A list that is not closed: `suite.tasks=[reading,bele`, `+suite.upstream={eu: [bele`."""
_VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("compare", "--across"): ("num_fewshot", "template"),
    ("leaderboard", "--format"): ("html", "csv", "latex", "model-index", "every-eval-ever"),
    ("leaderboard", "--relationship"): ("first_party", "third_party", "collaborative", "other"),
}
"""Values of options by tool. They are written here once more, since the modules that know them take half a second to import."""

SCRIPTS = {
    "bash": """_iberlm_complete() {
    local line="${COMP_LINE:0:$COMP_POINT}"
    local IFS=$'\\n'
    COMPREPLY=($(iberlm completion words -- "$line" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ( ${COMPREPLY[0]} == *[=.] || ${COMPREPLY[0]} == *"["*[!]] ) ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
COMP_WORDBREAKS=${COMP_WORDBREAKS//@}
complete -o default -F _iberlm_complete iberlm
""",
    "zsh": """autoload -Uz compinit && compinit -u
_iberlm() {
    local -a candidates
    candidates=("${(@f)$(iberlm completion words -- "${BUFFER[1,$CURSOR]}" 2>/dev/null)}")
    [[ -n "${candidates[*]}" ]] && compadd -S '' -- $candidates || _files
}
compdef _iberlm iberlm
""",
    "fish": """complete -c iberlm -n 'test -n "$(iberlm completion words -- (commandline -cp) 2>/dev/null)"' -f
complete -c iberlm -a '(iberlm completion words -- (commandline -cp) 2>/dev/null)'
""",
}


def completion_command(arguments: list[str]) -> int:
    """`iberlm completion bash|zsh|fish` prints the script; `words -- LINE` the candidates, one a line."""
    if arguments[:2] == ["words", "--"] and len(arguments) == 3:
        print("\n".join(candidates(arguments[2])))
        return 0
    if len(arguments) == 1 and arguments[0] in SCRIPTS:
        sys.stdout.write(SCRIPTS[arguments[0]])
        return 0
    if arguments in (["--help"], ["-h"]):
        print('usage: iberlm completion bash|zsh|fish\n\nbash and zsh: eval "$(iberlm completion bash)"\nfish: iberlm completion fish | source')
        return 0
    raise ConfigError(f"completion: choose a shell among {', '.join(SCRIPTS)}")


def candidates(line: str) -> list[str]:
    """What may stand at the end of a command line that begins with `iberlm`."""
    from iberlm.cli.main import TOOLS
    from iberlm.cli.verbs import VERBS

    *before, begun = _words(line)
    if len(before) < 2:
        return _fitting([*VERBS, *TOOLS], begun) if before else []
    name = before[1]
    if name in TOOLS:
        return _tool_candidates(name, before[2:], begun)
    return _override_candidates(name, before[2:], begun) if name in VERBS else []


def _words(line: str) -> list[str]:
    """The words of a command line as the shell would make them, the last one as far as it is written; empty behind a blank."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        return [*words, ""] if not closing and (not line or line[-1].isspace()) else words
    return line.split() or [""]


def _fitting(names: Iterable[str], begun: str) -> list[str]:
    return [name for name in names if name.startswith(begun)]


def _tool_candidates(tool: str, before: list[str], begun: str) -> list[str]:
    """Commands of a group, options, values of an option or of an argument where they are few."""
    import typer

    from iberlm.cli.tools import app

    command: Any = typer.main.get_command(app).commands.get(tool)  # type: ignore[attr-defined]
    if command is None:
        return _fitting(SCRIPTS, begun) if tool == "completion" and not before else []
    if commands := getattr(command, "commands", None):
        if not before:
            return _fitting(commands, begun)
        command, before = commands.get(before[0]), before[1:]
    options = {name: not option.is_flag for option in getattr(command, "params", ()) for name in option.opts if name.startswith("-")}
    option, equals, value = begun.partition("=")
    if equals and begun.startswith("--"):
        return [f"{option}={entry}" for entry in _fitting(_values(tool, option), value)]
    if before and options.get(before[-1]):
        return _fitting(_values(tool, before[-1]), begun)
    if begun.startswith("-"):
        return _fitting((name for name in options if name.startswith("--")), begun)
    given = [word for previous, word in zip(["", *before], before, strict=False) if not word.startswith("-") and not options.get(previous)]
    return _argument_candidates(tool, given, begun)


def _values(tool: str, option: str) -> Iterable[str]:
    if option == "--language":
        return LANGUAGES
    if (tool, option) == ("leaderboard", "--suite"):
        from iberlm.core.resources import resource_dir

        return sorted(path.stem for path in (resource_dir("recipes") / "suite").glob("*.yaml"))
    return _VALUES.get((tool, option), ())


def _argument_candidates(tool: str, given: list[str], begun: str) -> list[str]:
    """What a tool takes without an option, behind what is `given` so."""
    from iberlm.cli.verbs import VERBS

    if tool == "items":
        return _override_candidates("evaluate", given, begun)
    if tool == "watch" and given:
        return _override_candidates("evaluate", given[1:], begun)
    if tool in ("plan", "prefetch"):
        if not given:
            return _fitting(VERBS, begun)
        return _override_candidates(given[0], given[1:], begun) if given[0] in VERBS else []
    if tool == "review-items" and not given:
        from iberlm.evaluate.catalogue import OWN, catalogue

        own = (facts for facts in catalogue().values() if facts.source == OWN)
        return _fitting((facts.name for facts in own if facts.file.with_name(f"{facts.family}.jsonl").is_file()), begun)
    return []


def _override_candidates(verb: str, before: list[str], begun: str) -> list[str]:
    """Hydra overrides of a verb."""
    key, equals, value = begun.partition("=")
    if equals and (_elements(key.lstrip("+")) or key.lstrip("+").endswith("suite.upstream")):
        return _list_candidates(begun if value else f"{begun}[")
    # what is no override decides nothing here, and what has a blank would be taken for two
    kept = [word for word in before if "=" in word and not re.search(r"\s", word) and not word.startswith("-")]
    return [] if re.search(r"\s", begun) else _hydra_candidates(verb, " ".join([*kept, begun]))


def _list_candidates(begun: str) -> list[str]:
    """What may follow in a list; where a name is whole, also what separates it from the next, and what closes the list."""
    found = _LIST.fullmatch(begun)
    if found is None:
        return []
    there = re.findall(r"[^\s,]+", found["given"] or "")
    name = found["begun"]
    fitting = [entry for entry in _fitting(_elements(found["key"].lstrip("+"), found["tag"] or ""), name) if entry not in there]
    whole = [f"{name},", f"{name}]"] if name in fitting else []
    return [found["head"] + entry for entry in [*whole, *(entry for entry in fitting if entry != name)]]


def _elements(key: str, tag: str = "") -> list[str]:
    """Names that the list of a setting may have; [] where they are not known. `tag` is the key inside a list of lists."""
    if re.fullmatch(r"(.+\.)?languages", key):
        return [*LANGUAGES]
    if re.fullmatch(r"(.+\.)?suite\.tasks", key):
        from iberlm.evaluate.suite import families

        return [*families()]
    if found := re.fullmatch(r"(.+\.)?suite\.upstream(\.(?P<tag>[\w-]+))?", key):
        from iberlm.evaluate.catalogue import OWN, catalogue

        return [facts.name for facts in catalogue().values() if facts.source != OWN and facts.language == (found["tag"] or tag)]
    return []


def _hydra_candidates(name: str, line: str) -> list[str]:
    from hydra import initialize_config_dir
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from iberlm.cli.hydra_app import register_schemas, search_path_override
    from iberlm.cli.verbs import VERBS
    from iberlm.core.resources import resource_dir

    if name == "run":
        register_schemas()
    else:  # the settings of the other verbs take longer to import than all the rest
        ConfigStore.instance().store(name=f"{VERBS[name].recipe}_schema", node=VERBS[name].config_class())
    found: list[str] = []
    with initialize_config_dir(str(resource_dir("recipes")), version_base="1.3"), contextlib.suppress(HydraException, OmegaConfBaseException):
        loader = GlobalHydra.instance().config_loader()
        found = BashCompletion(loader)._query(config_name=VERBS[name].recipe, line=f"{search_path_override()} {line}")
    # of a list Hydra offers `KEY.` and `KEY=0=`
    lists = (f"{entry[:-1]}=" if entry.endswith(".") and _elements(entry[:-1]) else entry for entry in found)
    begun = line.rpartition(" ")[2]
    # behind `backend=` Hydra also offers the keys of that setting: `backend=kind=`, `evaluate.suite=languages.`
    return [entry for entry in lists if not re.search(r"=\d+=$", entry) and not ("=" in begun and entry.endswith(("=", ".")))]
