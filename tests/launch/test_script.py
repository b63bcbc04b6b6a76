"""Batch scripts: as golden files, with hostile names in every field, and carried out by a real Slurm.

The golden files are rewritten by `IBERLM_WRITE_GOLDEN=1 pytest tests/launch/test_script.py`; read the difference before it is committed.
"""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.cluster import ClusterConfig, ContainerConfig, RetryConfig
from iberlm.core.errors import ConfigError
from iberlm.launch.profile import load_profile, profiles
from iberlm.launch.script import Script, expand, log_path, quote, render, walltime

from .slurm_cluster import SlurmCluster

GOLDEN = Path(__file__).parent / "golden"
RUN_DIR = Path("/scratch/my project/runs/iberian-2b")
HOSTILE = "ru n; 'q' \"d\" $(touch x) `id` %j %% ñ€ $HOME #c & | * ?"
GENERIC: dict[str, Any] = {"partition": "gpu", "accelerator": "cuda", "gpus_per_node": 4, "cores_per_node": 64, "walltime_minutes": 1440}


def script(cluster: ClusterConfig | None = None, **changes: Any) -> Script:
    """A job of one task; `changes` as for Script."""
    given: dict[str, Any] = {
        "name": "pretrain",
        "verb": "pretrain",
        "run_dir": RUN_DIR,
        "python": "/home/me/venv/bin/python",
        "cluster": cluster or ClusterConfig(name="lab", scheduler="slurm"),
        "version": "0.6.0 (1a2b3c4)",
        "uses_gpus": False,
        "ranks": False,
    } | changes
    given.setdefault("folder", given["run_dir"] / "slurm" / given["name"])
    return Script(**given)


def training(name: str, **changes: Any) -> Script:
    """Two nodes of a shipped profile, one rank a GPU."""
    required = {"account": "project1"} if name != "generic" else GENERIC
    cluster = replace(load_profile(profiles()[name]), nodes=2, **required, **changes)
    return script(
        cluster,
        python=cluster.container.python if cluster.container.image else "/home/me/venv/bin/python",
        uses_gpus=True,
        ranks=True,
        nodes=2,
        tasks_per_node=cluster.ranks_per_node,
        cpus_per_task=cluster.cores_per_node // cluster.ranks_per_node,
        gpus_per_node=cluster.gpus_per_node,
        exclusive=cluster.exclusive,
        minutes=cluster.minutes or 1440,
    )


def cases() -> dict[str, Script]:
    """What the golden files hold."""
    found = {name: training(name) for name in profiles() if name not in ("local", "marenostrum5_gpp")}
    curation = replace(load_profile(profiles()["marenostrum5_gpp"]), account="project1")
    found["marenostrum5_gpp"] = script(curation, name="curate", verb="curate", cpus_per_task=112, minutes=4320, arguments=["--until", "select"])
    array = RUN_DIR / "slurm" / "curate-extract-array"
    until = ["--until", "extract"]
    found["array"] = replace(found["marenostrum5_gpp"], name=array.name, folder=array, arguments=until, array="0-2,5%2", share=8, after=[71, 72])
    found["sweep"] = replace(found["generic"], name="pretrain-sweep", array="0-3%2", sweep=True, folder=RUN_DIR / "slurm" / "pretrain-sweep")
    image = ContainerConfig(image="/gpfs/me/iberlm.sif", runtime="singularity", options=["--nv"], binds=["/leonardo_work", "/leonardo_scratch"])
    found["container"] = training("leonardo_booster", container=image, bundle="/gpfs/me/bundle", pass_environment=["WANDB_API_KEY"])
    return found


@pytest.mark.parametrize("name", list(cases()))
def test_scripts_are_as_the_golden_files_say(name: str) -> None:
    path, text = GOLDEN / f"{name}.sh", render(cases()[name])
    if os.environ.get("IBERLM_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text.encode() == path.read_bytes()
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False).stderr == ""


def test_shellcheck_finds_nothing_in_the_golden_files() -> None:
    if shutil.which("shellcheck") is None:
        if os.environ.get("CI"):
            pytest.fail("shellcheck is not installed (apt-get install shellcheck)")
        pytest.skip("NO SCRIPT IS CHECKED: shellcheck is not installed (apt-get install shellcheck)")
    found = subprocess.run(["shellcheck", *sorted(GOLDEN.glob("*.sh"))], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert {path.stem for path in GOLDEN.glob("*.sh")} == set(cases())


def test_only_what_is_set_is_written() -> None:
    directives = [line for line in render(script()).splitlines() if line.startswith("#SBATCH")]
    assert [line.split("=")[0].removeprefix("#SBATCH --") for line in directives] == (
        "job-name output open-mode nodes ntasks-per-node signal requeue export".split()
    )


def test_memory_is_all_of_a_whole_node_or_a_share() -> None:
    cluster = ClusterConfig(name="lab", scheduler="slurm", cores_per_node=64, gpus_per_node=4, memory_gb_per_node=400)

    def memory(**changes: Any) -> list[str]:
        return [line for line in render(script(**{"cluster": cluster} | changes)).splitlines() if "--mem" in line]

    assert memory(exclusive=True) == ["#SBATCH --mem=400G"]
    assert memory(cpus_per_task=16) == ["#SBATCH --mem=100G"]
    assert memory(cpus_per_task=16, uses_gpus=True, gpus_per_node=2) == ["#SBATCH --mem=200G"]
    assert memory(cluster=replace(cluster, memory_gb_per_node=0), exclusive=True) == ["#SBATCH --mem=0"]
    assert memory(cluster=replace(cluster, memory_gb_per_node=0), cpus_per_task=16) == []


def test_walltime_is_days_and_hours() -> None:
    assert [walltime(minutes) for minutes in (1, 59, 60, 1439, 1440, 4325)] == "0-00:01:00 0-00:59:00 0-01:00:00 0-23:59:00 1-00:00:00 3-00:05:00".split()


NASTY = ["a;b", "a b", "a'b", 'a"b', "$(touch x)", "`id`", "$HOME", "a\nb", "a\\b", "#a", "a\tb", "ñ", "a\x1b[31m", ""]


@pytest.mark.parametrize("value", NASTY[:-1])
@pytest.mark.parametrize("key", ["partition", "qos", "account", "reservation", "constraint", "gres"])
def test_what_cannot_stand_in_a_directive_is_refused_by_name(key: str, value: str) -> None:
    cluster = ClusterConfig(name="lab", scheduler="slurm", gpus_per_node=1, **{key: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"cluster\.{key}: '.*' cannot be given to Slurm; write letters"):
        render(script(cluster, uses_gpus=True, gpus_per_node=1))


@pytest.mark.parametrize("value", NASTY)
def test_nodes_and_further_options_are_refused_too(value: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.exclude: "):
        render(script(ClusterConfig(name="lab", scheduler="slurm", exclude=["node1", value]))) if value else render(
            script(ClusterConfig(name="lab", scheduler="slurm", exclude=[value]))
        )
    with pytest.raises(ConfigError, match=r"cluster\.extra: "):
        render(script(ClusterConfig(name="lab", scheduler="slurm", extra=[f"--licenses={value}" if value else ""])))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a b"}, "name: 'a b' is no name of a job"),
        ({"run_dir": Path("runs/a")}, "run_dir: 'runs/a' must be absolute"),
        ({"run_dir": Path("/runs/a\nb")}, r"run_dir: '/runs/a\\nb' has the control character '\\n'"),
        ({"run_dir": Path("/runs/a\\b")}, "run_dir: .* has a backslash"),
        ({"run_dir": Path(os.fsdecode(b"/runs/\xff"))}, "run_dir: .* is not UTF-8"),
        ({"version": "0.1\nrm -r x"}, "version: .* has the control character"),
        ({"arguments": ["a\0b"]}, "arguments: .* has the control character"),
        ({"minutes": 10}, "cluster.signal_seconds: 600 s before the end of a job of 10 min is before its beginning"),
        ({"cluster": ClusterConfig(name="lab", scheduler="slurm", signal_seconds=70_000)}, "cluster.signal_seconds: 70000 is too long"),
        ({"cluster": ClusterConfig(name="lab", scheduler="slurm", extra=["--output=x"])}, "cluster.extra: --output is set by IberLM"),
        ({"cluster": ClusterConfig(name="lab", scheduler="slurm", extra=["-t1"])}, "cluster.extra: '-t1' is no option of sbatch in one word"),
        ({"cluster": ClusterConfig(name="lab", scheduler="slurm", environment={"A": "a\rb"})}, "cluster.environment.A: .* has the control character"),
        ({"cluster": ClusterConfig(name="lab", scheduler="slurm", modules=["a\nb"])}, "cluster.modules: .* has the control character"),
        ({"cluster": ClusterConfig(name="lab", scheduler="slurm", setup_file="a\nb")}, "cluster.setup_file: .* has the control character"),
        ({"cluster": ClusterConfig(name="lab", scheduler="slurm", bundle="a\nb")}, "cluster.bundle: .* has the control character"),
        ({"run_dir": Path("/runs/a:b"), "cluster": ClusterConfig(name="lab", container=ContainerConfig(image="x.sif"))}, "run_dir: '/runs/a:b' has ':', which"),
        ({"cluster": ClusterConfig(name="lab", bundle="/a,b", container=ContainerConfig(image="x.sif"))}, "cluster.bundle: '/a,b' has ',', which"),
    ],
)
def test_what_no_script_can_hold_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        render(script(**changes))


def printed(words: str) -> str:
    """What bash makes of a word, with TMP and B set."""
    done = subprocess.run(["bash", "-uc", f"printf %s {words}"], env={"TMP": "t m'p\"$(x)", "B": "b"}, capture_output=True, check=True, timeout=300)
    return done.stdout.decode()


PIECES = ["$TMP", "$B", "$", "${B}", '"', "'", "`id`", "$(id)", "\\", "!", "B", "a b", "~", "*"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text("aé €$\\", max_size=3)))
def test_only_names_of_variables_are_replaced_on_the_node(parts: list[str]) -> None:
    text = "".join(parts)
    word = expand(text, "cluster.environment.X")
    assert printed(quote(text, "arguments")) == text
    if set(re.findall(r"\$([A-Za-z_][A-Za-z0-9_]*)", text)) - {"TMP", "B"}:  # a variable that is not set ends the job
        with pytest.raises(subprocess.CalledProcessError):
            printed(word)
    else:
        assert printed(word) == re.sub(r"\$(TMP|B)", lambda found: {"TMP": "t m'p\"$(x)", "B": "b"}[found[1]], text)


def test_a_missing_variable_has_a_stand_in_only_where_one_is_stated() -> None:
    assert printed(expand("$NOWHERE/x", "cluster.node_local", default="/tmp")) == "/tmp/x"
    assert log_path(Path("/a %j\"b'"), "run_dir", "x") == '"/a %%j\\"b\'/slurm/logs/x-%j.log"'


RECORDER = """#!/bin/bash
# stands in for Python: notes what it is called with, and decides as an end would
(IFS=$'\x1f' && echo "${{SLURM_RESTART_COUNT:-0}}$IFS${{*:2}}" >>"{log}/calls")
case "$*" in
*launch.job.node*) ;;
*launch.job.end*)
  echo "$IBERLM_JOB_STATE" >"{log}/state"
  [[ ${{SLURM_RESTART_COUNT:-0}} -ge 1 ]] || printf 'chain %s\\nexclude %s\\nrequeue\\n' "$QUEUED" "$(hostname)"
  ;;
*"--ranks before"*) printf 'iberlm.train.worker\\0a b\\0$(touch x)\\0' >"$(dirname "$5")/ranks" ;;
*iberlm.train.worker*) env -0 >"{log}/rank-$SLURM_PROCID" ;;
esac
"""


def recorder(folder: Path) -> Path:
    """A program in place of Python whose calls can be read."""
    path = folder / "recorder"
    path.write_text(RECORDER.format(log=folder))
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[list[str]]:
    """How often the job was requeued before and what was called, word by word, in order."""
    return [line.split("\x1f") for line in (folder / "calls").read_text(encoding="utf-8").splitlines()]


def submit(slurm: SlurmCluster, job: Script) -> int:
    for folder in (job.folder, job.run_dir / "slurm" / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "job.sh"
    path.write_text(render(job), encoding="utf-8")
    return int(slurm.run("sbatch", "--parsable", path))


def test_slurm_carries_out_scripts_in_a_hostile_folder(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of two nodes and four ranks, and an array: both requeued without the node that they name, a queued job told of it."""
    monkeypatch.setenv("SECRET", "s e'c\"r$et")
    monkeypatch.setenv("PRIVATE", "nothing of this shell goes into a job unasked")
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / HOSTILE
    queued = slurm.submit("true", "--hold")
    setup = tmp_path / "set up.sh"
    setup.write_text('SOURCED="yes $UNSET_VARIABLE_OF_OTHERS"; export SOURCED\n')
    cluster = ClusterConfig(
        name="lab",
        scheduler="slurm",
        partition="main",
        environment={"QUEUED": str(queued), "TRICK": "$HOME `id` $(id) ${HOME} \"'\\ $"},
        task_environment={"ROCR_VISIBLE_DEVICES": "$SLURM_LOCALID", "ODD": 'it\'s "$SLURM_PROCID"'},
        pass_environment=["SECRET"],
        setup_file=str(setup),
        signal_seconds=10,
        retry=RetryConfig(requeue=True),
    )
    work = {name: tmp_path / name for name in ("ranks", "array")}
    for folder in work.values():
        folder.mkdir()
    size = {"uses_gpus": True, "ranks": True, "nodes": 2, "tasks_per_node": 2, "cpus_per_task": 2, "gpus_per_node": 2, "minutes": 5}
    ranks = submit(slurm, script(cluster, run_dir=run_dir, python=str(recorder(work["ranks"])), **size))
    few = replace(cluster, pass_environment=[], environment={"QUEUED": "999999"})
    size = {"array": "1,3", "share": 4, "cpus_per_task": 1, "minutes": 5}
    array = submit(slurm, script(few, name="curate", verb="curate", run_dir=run_dir, python=str(recorder(work["array"])), **size))
    slurm.wait_state(ranks, "COMPLETED", seconds=60)
    slurm.wait(lambda: all(slurm.state(f"{array}_{number}") == "COMPLETED" for number in (1, 3)), 60, "the array is complete")

    # what was called, with what, and how often
    folder = str(run_dir / "slurm" / "pretrain")
    frozen = ["iberlm", "pretrain", "--frozen", f"{folder}/config.yaml", "--ranks"]
    once = [["iberlm.launch.job.node", folder]] * 2 + [["iberlm.launch.job.start", folder], [*frozen, "before"]]
    once += [["iberlm.train.worker", "a b", "$(touch x)"]] * 4 + [[*frozen, "after=0"], ["iberlm.launch.job.end", folder, "0"]]
    assert calls(work["ranks"]) == [["0", *call] for call in once] + [["1", *call] for call in once]
    shares = sorted(call[-1] for call in calls(work["array"]) if call[0] == "1" and "--share" in call)
    assert shares == ["1/4", "3/4"]

    assert (work["ranks"] / "state").read_text().split()[0] == "RUNNING"

    # each rank's environment
    for rank in range(4):
        found = dict(entry.split("=", 1) for entry in (work["ranks"] / f"rank-{rank}").read_text().split("\0") if entry)
        assert found["TRICK"] == f"{os.environ['HOME']} `id` $(id) ${{HOME}} \"'\\ $"
        assert (found["ROCR_VISIBLE_DEVICES"], found["ODD"]) == (str(rank % 2), f'it\'s "{rank}"')
        assert (found["SECRET"], found["SOURCED"]) == (os.environ["SECRET"], "yes ")
        assert "PRIVATE" not in found
        assert (found["LOCAL_WORLD_SIZE"], found["OMP_NUM_THREADS"], found["HF_HUB_OFFLINE"]) == ("2", "2", "1")
        assert (found["IBERLM_JOB"], found["IBERLM_RANK_REPORTS"]) == (folder, f"{folder}/reports")
        assert found["MASTER_ADDR"] == "node2"  # of the second start: the first had node1
        assert 10_000 <= int(found["MASTER_PORT"]) < 30_000

    # the node that was named is left out, by the job that waits too
    assert slurm.job(ranks)["ExcNodeList"] == "node1"
    assert slurm.job(ranks)["NodeList"] == "node[2-3]"
    assert slurm.job(queued)["ExcNodeList"] == "node1"
    logs = run_dir / "slurm" / "logs"
    assert {path.name for path in logs.iterdir()} == {f"pretrain-{ranks}.log", f"curate-{array}_1.log", f"curate-{array}_3.log"}
    assert "job 999999 may still start on" in (logs / f"curate-{array}_1.log").read_text()
    assert not (tmp_path / "x").exists()  # nobody has run `touch x`
