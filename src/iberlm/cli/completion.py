"""Shell completion: verbs, tools and their options, groups with their choices, and every key of the configuration.

`eval "$(iberlm completion bash)"`. The shell calls `iberlm completion words -- LINE...`; after a verb the candidates come
from Hydra's own completion on the verb's recipe, so they are what Hydra would accept. Where there is none, the shell offers files.
"""

import sys

from iberlm.core.errors import ConfigError

SCRIPTS = {
    "bash": """_iberlm_complete() {
    local line="${COMP_LINE:0:$COMP_POINT}"
    local IFS=$'\\n'
    COMPREPLY=($(iberlm completion words -- "$line" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ( ${COMPREPLY[0]} == *= || ${COMPREPLY[0]} == *. ) ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
COMP_WORDBREAKS=${COMP_WORDBREAKS//@}
complete -o default -F _iberlm_complete iberlm
""",
    "zsh": """autoload -Uz compinit && compinit -u
_iberlm() {
    local -a candidates
    candidates=("${(@f)$(iberlm completion words -- "${BUFFER[1,$CURSOR]}" 2>/dev/null)}")
    [[ -n "${candidates[*]}" ]] && compadd -Q -S '' -- $candidates || _files
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

    words = line.split()
    ended = line.endswith(" ")
    if len(words) <= 1 or (len(words) == 2 and not ended):
        begun = words[1] if len(words) == 2 else ""
        return [name for name in [*VERBS, *TOOLS] if name.startswith(begun)]
    if words[1] in TOOLS:
        return _tool_candidates(words[1], words[2:], ended)
    if words[1] not in VERBS:
        return []
    rest = " ".join(words[2:]) + (" " if ended and words[2:] else "")
    return _hydra_candidates(words[1], rest)


def _tool_candidates(name: str, words: list[str], ended: bool) -> list[str]:
    """Options of a tool, and values of the last one where they are few."""
    from iberlm.cli.tools import options_of

    *before, begun = [*words, ""] if ended or not words else words
    options = options_of(name)
    offered = options.get(before[-1], []) if before else []
    return [entry for entry in offered or (options if begun.startswith("-") else []) if entry.startswith(begun)]


def _hydra_candidates(name: str, line: str) -> list[str]:
    from hydra import initialize_config_dir
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra.core.global_hydra import GlobalHydra

    from iberlm.cli.hydra_app import register_schemas, search_path_override
    from iberlm.cli.verbs import VERBS
    from iberlm.core.resources import resource_dir

    register_schemas()
    with initialize_config_dir(str(resource_dir("recipes")), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found: list[str] = BashCompletion(loader)._query(config_name=VERBS[name].recipe, line=f"{search_path_override()} {line}")
    return found
