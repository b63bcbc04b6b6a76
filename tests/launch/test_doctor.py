"""What `iberlm doctor` finds on this machine, and on real faults: a full disk, no inodes left, packages missing, a profile that Slurm contradicts."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from iberlm.core.cluster import ClusterConfig, DeviceConfig, FactConfig, QueueConfig
from iberlm.launch.doctor.accelerators import Probe, check_gpus, check_imports, check_ranks, probe
from iberlm.launch.doctor.checks import NOTE, OK, PROBLEM, WARNING, Finding, check_compilers, check_packages, modules_to_import
from iberlm.launch.doctor.disk import HOME, NODE_LOCAL, RUN, Quota, check_disks, check_locks, parse_lfs_quota, parse_quota, room_left
from iberlm.launch.doctor.environment import check_environment, check_jobs, check_offline
from iberlm.launch.doctor.examine import as_json, exit_status, lines
from iberlm.launch.doctor.profile import AGREES, DIFFERS, UNTOLD, Kind, Seen, compare
from iberlm.launch.doctor.slurm import check_slurm, profile_line
from iberlm.launch.profile import load_profile, profiles
from iberlm.launch.slurm.machine import Association, Limits, Node, Partition, Qos

from .slurm_cluster import CORES, GPUS, MEMORY_MB, NODES, SlurmCluster

LAB = ClusterConfig(name="lab", scheduler="slurm", partition="main", cores_per_node=CORES, gpus_per_node=GPUS, accelerator="cuda", walltime_minutes=10)


def named(findings: Iterator[Finding] | Sequence[Finding], name: str) -> Finding:
    """The one finding of this name."""
    found = [finding for finding in findings if finding.name == name]
    assert len(found) == 1, found
    return found[0]


# the whole command


def doctor(*arguments: str, folder: Path) -> tuple[int, dict[str, Finding], str]:
    """Exit status and findings by section and name of `iberlm doctor --json`, and what it complained of."""
    command = [sys.executable, "-m", "iberlm", "doctor", "--json", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    told = json.loads(done.stdout)["findings"] if done.stdout else []
    return done.returncode, {f"{finding['section']}: {finding['name']}": Finding(**finding) for finding in told}, done.stderr


def test_a_profile_of_ones_own_is_checked_against_a_real_slurm(slurm: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    text = "name: mine\nscheduler: slurm\npartition: main\ncores_per_node: 12\nwalltime_minutes: 10\nfacts:\n  partition: {source: a rumour}\n"
    (tmp_path / "cluster" / "mine.yaml").write_text(text)
    status, found, errors = doctor("cluster=mine", "--config-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"), folder=tmp_path)
    assert status == 6, errors
    cores = found["cluster=mine: cores_per_node"]
    assert cores.level == PROBLEM
    assert "the profile has 12, Slurm 8" in cores.seen
    assert cores.mend == f"cluster.cores_per_node=8, or for good in {tmp_path}/cluster/mine.yaml:4"
    assert found["cluster=mine: partition"].level == OK
    assert "cluster.confirmed=[partition]" in found["cluster=mine: facts"].mend
    # all that the rest of the command sees of this machine
    assert found["Python: version"].level == OK
    assert found["Packages: imports"].level in (OK, WARNING)
    assert "torch" in found["GPUs: torch"].name
    assert found["Ranks: gloo"].level == OK, found["Ranks: gloo"]
    assert found["Slurm: controller"].level == OK
    assert found["Disks: locks"].level == OK
    assert {name.partition(":")[0] for name in found} == {
        "Python", "Packages", "GPUs", "Ranks", "Compilers", "Disks", "Limits", "Environment", "Offline", "Slurm", "cluster=mine"
    }  # fmt: skip
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def test_what_is_no_setting_of_a_cluster_is_refused(tmp_path: Path) -> None:
    for argument, expected in (
        ("steps=3", "write cluster=NAME or cluster.KEY=VALUE"),
        ("cluster=nowhere", "there is no such recipe"),
        ("cluster.coers_per_node=3", "did you mean 'cluster.cores_per_node'"),
    ):
        status, _, errors = doctor(argument, folder=tmp_path)
        assert status == 2
        assert expected in errors
        assert "Traceback" not in errors


def test_findings_are_shown_with_their_mends_and_end_with_status_6_for_a_problem() -> None:
    good = Finding("Disks", "run folder", OK, "40 GiB free")
    bad = Finding("Slurm", "programs", PROBLEM, "no sbatch here", "load the module")
    assert exit_status([good, Finding("Disks", "home", WARNING, "1 GiB free", "clean up")]) == 0
    assert exit_status([good, bad]) == 6
    shown = lines([good, bad])
    assert shown[0].split() == ["ok", "Disks", "run", "folder", "40", "GiB", "free"]
    assert shown[2].strip() == "-> load the module"
    assert shown[-1] == "1 problem; 2 findings"
    assert as_json([bad]) == {
        "status": 6,
        "findings": [{"section": "Slurm", "name": "programs", "level": PROBLEM, "seen": "no sbatch here", "mend": "load the module"}],
    }


# packages and torch


def test_a_package_that_is_missing_or_too_old_is_named_with_its_mend(tmp_path: Path) -> None:
    python = _environment_without(tmp_path, missing="xxhash", old="orjson")
    script = "import json, dataclasses\nfrom iberlm.launch.doctor.checks import *\nprint(json.dumps([dataclasses.asdict(f) for f in check_packages()]))"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    found = [Finding(**finding) for finding in json.loads(done.stdout)]
    missing, old = named(found, "xxhash"), named(found, "orjson")
    assert missing.level == old.level == PROBLEM
    assert missing.seen.startswith("not installed; needed >=")
    assert missing.mend.startswith("pip install 'xxhash>=")
    assert old.seen.startswith("0.0.1; needed >=")
    assert {finding.name for finding in found if finding.level == PROBLEM} == {"xxhash", "orjson"}


def _environment_without(folder: Path, *, missing: str, old: str) -> str:
    """Python of a real environment that has the packages of this one, but for one that is missing and one that calls itself ancient."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        name = entry.name.lower()
        if name.startswith((f"{missing}-", f"{missing}.", "distutils")) or name == missing:
            continue
        if name.startswith(f"{old}-") and name.endswith(".dist-info"):
            ancient = site / f"{old}-0.0.1.dist-info"
            ancient.mkdir()
            (ancient / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {old}\nVersion: 0.0.1\n")
        else:
            (site / entry.name).symlink_to(entry)
    return str(folder / "env" / "bin" / "python")


def test_all_packages_of_this_environment_have_versions_that_fit() -> None:
    assert [finding for finding in check_packages() if finding.level in (WARNING, PROBLEM)] == []
    names = modules_to_import()
    assert names[0] == "torch"
    assert {"transformers", "pyarrow", "hydra", "lm_eval"} <= set(names)


def test_an_import_that_fails_or_ends_its_process_is_put_down_to_the_right_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "breaks": "raise ImportError('libnothing.so.1: cannot open shared object file')",
        "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "leaves": "import os; os._exit(3)",
        "exits": "raise SystemExit(4)",
        "prints": "print('welcome'); import os; os.write(1, b'{}')",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    found = probe([*sources, "json"])
    assert found.failed["breaks"] == "ImportError: libnothing.so.1: cannot open shared object file"
    assert "SIGSEGV" in found.failed["crashes"]
    assert "status 3" in found.failed["leaves"]
    assert found.failed["exits"].startswith("SystemExit")
    assert set(found.seconds) == {"prints", "json"}
    findings = list(check_imports(found))
    assert [finding.name for finding in findings if finding.level == PROBLEM] == ["breaks", "crashes", "leaves", "exits"]
    assert "2 packages imported" in named(findings, "imports").seen


def test_gpus_that_torch_cannot_use_are_a_problem_of_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine of the tests has a GPU: nvidia-smi's words stand in a script, as its manual and an H100 have them."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        "#!/bin/sh\nif [ $# = 0 ]; then echo '| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |'\n"
        "else echo 'NVIDIA H100 80GB HBM3, 81559, 550.54.15'; echo 'NVIDIA H100 80GB HBM3, 81559, 550.54.15'; fi\n"
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    none = {"gpus": [{"value": []}]}
    of_cpu = list(check_gpus(Probe(told={"torch": "2.13.0+cpu", "cuda": None, "hip": None} | none), ClusterConfig()))
    assert named(of_cpu, "driver").seen == "NVIDIA driver 550.54.15, for CUDA up to 12.4: 2 x NVIDIA H100 80GB HBM3"
    assert named(of_cpu, "torch").level == PROBLEM
    assert "build of torch for CUDA" in named(of_cpu, "torch").mend
    too_new = named(check_gpus(Probe(told={"torch": "2.13.0+cu130", "cuda": "13.0", "hip": None} | none), ClusterConfig()), "torch")
    assert too_new.level == PROBLEM
    assert "CUDA 12.x" in too_new.mend
    gpu = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * 2**30, "capability": [9, 0], "error": ""}
    both = {"gpus": [{"value": [gpu, gpu | {"error": "no kernel image is available"}]}]}
    found = list(check_gpus(Probe(told={"torch": "2.13.0+cu124", "cuda": "12.4", "hip": None} | both), ClusterConfig()))
    assert [finding.level for finding in found] == [OK, OK, OK, PROBLEM]
    assert "no kernel image" in named(found, "GPU 1").seen


def test_missing_gpus_are_a_problem_only_where_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    nothing = Probe(told={"gpus": [{"value": []}]})
    assert named(check_gpus(nothing, ClusterConfig()), "devices").level == NOTE
    assert named(check_gpus(nothing, LAB), "devices").level == NOTE, "a login node has none"
    assert named(check_gpus(nothing, ClusterConfig(accelerator="cuda")), "devices").level == PROBLEM
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert named(check_gpus(nothing, LAB), "devices").level == PROBLEM


def test_ranks_that_cannot_talk_are_a_problem() -> None:
    found = list(check_ranks(Probe(told={"gloo": [{"value": 0.1}, {"error": "no answer in 20 s"}]})))
    assert named(found, "gloo").level == PROBLEM
    assert "no answer in 20 s" in named(found, "gloo").seen
    assert named(found, "nccl").level == NOTE


def test_without_a_loopback_network_gloo_is_found_broken() -> None:
    alone = ["unshare", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to make a network namespace here")
    script = "from iberlm.launch.doctor.accelerators import *\nfor f in check_ranks(probe(['torch'])): print(f.name, f.level, f.seen, sep='|')"
    told = subprocess.run([*alone, sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "gloo|problem|all_reduce between two ranks failed: RuntimeError" in told


def test_a_compiler_that_does_not_compile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++ -O2")
    found = named(check_compilers(), "C++")
    assert found.level == WARNING
    assert "/nonexistent/g++" in found.seen
    assert "CXX" in found.mend


def test_few_open_files_are_told(tmp_path: Path) -> None:
    script = "from iberlm.launch.doctor.checks import check_limits\nfor f in check_limits(): print(f.name, f.level, f.seen, f.mend, sep='|')"
    command = ["bash", "-c", 'ulimit -n 512; exec "$@"', "limited", sys.executable, "-c", script]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "open files|warning|512|ulimit -n 4096" in told


# disks


@pytest.fixture
def tmpfs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system in memory, mounted with the options that the test is given."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_is_a_problem_for_a_run_and_not_for_a_nodes_own(small_disk: Path) -> None:
    found = room_left("run folder", small_disk / "runs" / "default", RUN)
    assert found.level == PROBLEM
    assert "16.0 MiB free" in found.seen
    assert f"of {small_disk}" in found.seen, "the run folder is not there yet"
    assert "1.0 GiB" in found.mend
    assert named(check_disks(ClusterConfig(node_local=str(small_disk)), small_disk), "run folder").level == PROBLEM
    (small_disk / "ballast").write_bytes(b"0" * (16 * 2**20))
    assert room_left("node_local", small_disk, NODE_LOCAL).seen.count(" 0 B free") == 1


@pytest.mark.parametrize("tmpfs", ["size=64g,nr_inodes=500"], indirect=True)
def test_a_disk_without_inodes_is_a_problem_with_space_left(tmpfs: Path) -> None:
    found = room_left("run folder", tmpfs, RUN)
    assert found.level == PROBLEM
    assert "64.0 GiB free" in found.seen
    assert "remove files" in found.mend
    assert room_left("home", tmpfs, HOME).level == WARNING


@pytest.mark.parametrize("tmpfs", ["size=64g,nr_inodes=1000000"], indirect=True)
def test_a_run_folder_in_memory_is_warned_of(tmpfs: Path) -> None:
    assert room_left("run folder", tmpfs, RUN).level == WARNING
    assert "in memory" in room_left("run folder", tmpfs, RUN).mend
    assert room_left("node_local", tmpfs, NODE_LOCAL).level == OK
    assert room_left("node_local", tmpfs, NODE_LOCAL, shared=True).level == WARNING, "no other node sees it"


@pytest.mark.parametrize("tmpfs", ["size=64g,ro"], indirect=True)
def test_a_folder_that_cannot_be_written_is_a_problem(tmpfs: Path) -> None:
    assert "cannot write" in room_left("scratch", tmpfs, RUN).seen
    assert room_left("scratch", tmpfs, RUN).level == PROBLEM
    assert list(check_locks(tmpfs)) == [], "said once"


def test_locks_hold_on_this_disk_and_leave_nothing_behind(tmp_path: Path) -> None:
    assert named(check_locks(tmp_path), "locks").level == OK
    assert list(tmp_path.iterdir()) == []


def test_quotas_are_read_as_quota_and_lfs_print_them() -> None:
    text = "Disk quotas for user ana (uid 1000): \n     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
    text += "/dev/sda1  20971520* 10485760 20971520 1700000000  900  1000  2000  0\n"
    assert parse_quota(text, "user ana") == [("/dev/sda1", Quota("user ana", 20 * 2**30, 10 * 2**30, 900, 1000))]
    assert parse_quota("Disk quotas for user ana (uid 1000): none\n", "user ana") == []
    long = "/lustre/very/long/name/of/a/file/system\n    1048576       0  52428800       -    1200       0  100000       -\n"
    assert parse_lfs_quota(long, "project 462") == Quota("project 462", 2**30, 50 * 2**30, 1200, 100000)
    exceeded = "/pfs 63963136* 52428800 62914560 6d23h 100 0 0 -"
    assert parse_lfs_quota(exceeded, "user ana") == Quota("user ana", 61 * 2**30, 50 * 2**30, 100, 0)
    assert parse_lfs_quota("lfs quota: cannot resolve path", "user ana") is None


# the environment


def test_variables_that_harm_are_named_with_their_mend() -> None:
    harmful = {
        "PYTHONPATH": "/home/ana/old",
        "OMP_NUM_THREADS": "999",
        "NCCL_DEBUG": "INFO",
        "NCCL_IB_DISABLE": "1",
        "GLOO_SOCKET_IFNAME": "nothere0",
        "WORLD_SIZE": "4",
        "SBATCH_ACCOUNT": "someone",
        "TMPDIR": "/nonexistent",
    }
    found = {finding.name: finding for finding in check_environment(harmful, ClusterConfig())}
    assert set(found) == {"PYTHONPATH", "OMP_NUM_THREADS", "NCCL_DEBUG", "NCCL_IB_DISABLE", "GLOO_SOCKET_IFNAME", "ranks", "SBATCH_*", "TMPDIR"}
    assert all(finding.mend for finding in found.values())
    assert found["TMPDIR"].level == PROBLEM
    harmless = {"NCCL_DEBUG": "WARN", "NCCL_IB_DISABLE": "0", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "SLURM_PROCID": "0", "WORLD_SIZE": "4"}
    assert [finding.level for finding in check_environment(harmless, ClusterConfig())] == [OK]


def test_secrets_are_kept_out_of_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("not a token")
    (tmp_path / "token").chmod(0o644)
    cluster = ClusterConfig(environment={"HF_TOKEN": "hf_secret", "NCCL_DEBUG": "WARN"}, pass_environment=["WANDB_API_KEY"])
    found = {finding.name: finding for finding in check_environment({"HF_HOME": str(tmp_path)}, cluster)}
    assert found["HF_TOKEN"].level == PROBLEM
    assert "cluster.pass_environment=[HF_TOKEN]" in found["HF_TOKEN"].mend
    assert "not set here" in found["WANDB_API_KEY"].seen
    assert found["HF token"].mend == f"chmod 600 {tmp_path / 'token'}"
    assert "hf_secret" not in str(found)


def test_jobs_without_internet_need_a_bundle_that_is_whole(tmp_path: Path) -> None:
    assert named(check_offline({}, LAB), "bundle").level == NOTE
    assert "prefetch" in named(check_offline({}, LAB), "bundle").mend
    empty = named(check_offline({}, replace(LAB, bundle=str(tmp_path))), "bundle")
    assert empty.level == PROBLEM
    item = {"kind": "model", "name": "some/model", "files": [{"path": "hub/weights", "bytes": 3, "sha256": "0"}]}
    (tmp_path / "bundle.json").write_text(json.dumps({"format": 1, "iberlm": "0", "items": [item]}))
    assert f"{tmp_path}/hub/weights is missing" in named(check_offline({}, replace(LAB, bundle=str(tmp_path))), "bundle").seen
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "weights").write_text("abc")
    whole = named(check_offline({}, replace(LAB, bundle=str(tmp_path))), "bundle")
    assert (whole.level, whole.seen) == (OK, f"{tmp_path}: 1 x model; every file is there with its size")
    (tmp_path / "bundle.json").write_text("{")
    assert "bundle.json" in named(check_offline({}, replace(LAB, bundle=str(tmp_path))), "bundle").seen


def test_what_a_job_starts_with_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".bash_profile").write_text(
        'module() { [ "$1" = list ] && echo "Loaded: $LOADED" && return\n'
        '  [ "$2" = nowhere ] && echo "unknown module $2" >&2 && return 1\n  LOADED="$LOADED $2"; }\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named(check_jobs(replace(LAB, modules=["gcc/13", "a b;$(touch x)"])), "modules").level == OK
    refused = named(check_jobs(replace(LAB, modules=["gcc/13", "nowhere"])), "modules")
    assert (refused.level, refused.seen) == (PROBLEM, "gcc/13, nowhere: unknown module nowhere")
    assert named(check_jobs(replace(LAB, setup_file="/nonexistent")), "setup_file").level == PROBLEM
    assert named(check_jobs(replace(LAB, python=sys.executable)), "python").level == OK
    (tmp_path / "bare").write_text("#!/bin/sh\necho 'No module named iberlm' >&2; exit 1\n")
    (tmp_path / "bare").chmod(0o755)
    assert "No module named iberlm" in named(check_jobs(replace(LAB, python=str(tmp_path / "bare"))), "python").seen


# Slurm and a profile


def test_a_profile_that_is_true_agrees_in_every_fact(slurm: SlurmCluster) -> None:
    true = replace(
        LAB, partition="short", queues={"short": QueueConfig(walltime_minutes=2, nodes=1)}, walltime_minutes=0, memory_gb_per_node=7, max_array_size=1001
    )
    true.facts = {key: FactConfig(source="a rumour") for key in ("partition", "cores_per_node", "queues.short.nodes", "modules", "environment.NCCL_IB_HCA")}
    true.environment = {"NCCL_IB_HCA": "mlx5"}
    found = {finding.name: finding for finding in check_slurm(true)}
    for key in (
        "partition",
        "cores_per_node",
        "gpus_per_node",
        "gres",
        "architecture",
        "memory_gb_per_node",
        "max_array_size",
        "queues.short.walltime_minutes",
    ):
        assert found[key].level == OK, found[key]
        assert "agrees" in found[key].seen
    assert f"{NODES} x {CORES} cores" in found["partition"].seen
    assert found["a training job"].level == OK
    facts = found["facts"]
    assert facts.level == PROBLEM, "a submission is refused until they are confirmed"
    assert "'cluster.confirmed=[partition,cores_per_node,queues.short.nodes]'" in facts.mend
    assert facts.mend.endswith("give or confirm each: environment.NCCL_IB_HCA")
    assert "nobody has verified it (a rumour)" in found["environment.NCCL_IB_HCA"].seen
    true.confirmed = list(true.facts)
    assert named(check_slurm(true), "facts").level == OK


def test_every_fact_that_slurm_contradicts_is_named_with_both_values(slurm: SlurmCluster) -> None:
    wrong = replace(
        LAB,
        queues={"main": QueueConfig(walltime_minutes=60), "short": QueueConfig(walltime_minutes=1, nodes=4), "gone": QueueConfig(nodes=3)},
        cores_per_node=112,
        gpus_per_node=8,
        memory_gb_per_node=512,
        architecture="aarch64",
        constraint="a100&gold",
        max_array_size=5000,
        reservation="monday",
        account="ours",
    )
    found = {finding.name: finding for finding in check_slurm(wrong)}
    problems = {"cores_per_node": ("112", "8"), "gpus_per_node": ("8", "4"), "memory_gb_per_node": ("512", "7.8 GiB"), "architecture": ("aarch64", "x86_64")}
    problems |= {"max_array_size": ("5000", "1001"), "constraint": ("a100&gold", "no node has it"), "reservation": ("monday", "no such reservation")}
    for key, (ours, theirs) in problems.items():
        assert found[key].level == PROBLEM, found[key]
        assert ours in found[key].seen
        assert theirs in found[key].seen
        assert f"cluster.{key}=" in found[key].mend
    assert found["memory_gb_per_node"].mend == f"cluster.memory_gb_per_node={MEMORY_MB // 1024}"
    assert found["queues.short.walltime_minutes"].level == WARNING, "another queue than the one that is used, and less than it gives"
    assert found["queues.main.walltime_minutes"].level == NOTE, "the partition has no limit, and a QOS may"
    assert UNTOLD in found["queues.gone.nodes"].seen
    assert UNTOLD in found["account"].seen
    assert found["a training job"].level == PROBLEM


def test_partitions_that_are_missing_closed_or_for_others_are_a_problem(slurm: SlurmCluster) -> None:
    missing = named(check_slurm(replace(LAB, partition="acc")), "partition")
    assert missing.level == PROBLEM
    assert "there is closed, main, project, short" in missing.seen
    assert "DOWN" in named(check_slurm(replace(LAB, partition="closed")), "partition").seen
    assert named(check_slurm(replace(LAB, partition="closed,main")), "partition").level == OK
    assert "takes allowed" in named(check_slurm(replace(LAB, partition="project", account="ours")), "account").seen
    assert "account must be given" in named(check_slurm(replace(LAB, account_required=True)), "account").seen
    assert named(check_slurm(replace(LAB, partition="")), "partition").seen.startswith("main (Slurm's default) agrees")


def test_a_reservation_that_is_there_agrees(slurm: SlurmCluster) -> None:
    slurm.run("scontrol", "create", "reservation", "ReservationName=monday", "StartTime=now+1hour", "Duration=10", "Users=root", "Nodes=node3")
    try:
        assert named(check_slurm(replace(LAB, reservation="monday")), "reservation").level == OK
    finally:
        slurm.run("scontrol", "delete", "ReservationName=monday")


def test_without_slurm_only_a_slurm_profile_has_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [finding.level for finding in check_slurm(ClusterConfig())] == [NOTE]
    found = list(check_slurm(replace(LAB, facts={"partition": FactConfig(source="a rumour")})))
    assert named(found, "programs").level == PROBLEM
    assert "cluster.confirmed" not in named(found, "facts").mend, "nothing was seen that agrees"


def test_a_controller_that_does_not_answer_is_a_finding(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("slurm.conf", "gres.conf"):
        text = (slurm.folder / name).read_text()
        text = re.sub("SlurmctldPort=.*", "SlurmctldPort=9", text)  # where nothing listens
        (tmp_path / name).write_text(re.sub("MessageTimeout=.*", "MessageTimeout=2", text))  # for so long Slurm asks again
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    found = named(check_slurm(LAB), "controller")
    assert found.level == PROBLEM
    assert "is DOWN" in found.seen
    assert named(check_slurm(ClusterConfig()), "controller").level == NOTE, "who submits nothing may do without"


def test_with_accounting_accounts_and_qos_are_compared() -> None:
    """The fixture's Slurm has no accounting: what it would say is given, in the words of `sacctmgr`'s columns."""
    partition = Partition(
        name="acc", state="UP", default=True, max_minutes=None, default_minutes=None, max_nodes=None, min_nodes=0, total_nodes=4,
        allow_accounts=(), deny_accounts=(), allow_qos=("acc_debug", "acc_long"), deny_qos=(), allow_groups=(), qos="", needs_reservation=False,
    )  # fmt: skip
    node = Node(name="a1", state="idle", responds=True, cpus=160, memory_mb=512000, gres="gpu:h100:4(S:0-1)", features=(), partitions=("acc",), reason="")
    limits = Limits(cluster="mn5", version="23.02", max_array_size=1001, max_job_count=10000, accounting=True, enforced=("associations",))
    debug = Qos(name="acc_debug", max_minutes=120, max_queued=None, max_per_job={"node": 8}, flags=())
    ours = Association(account="ehpc01", partition="", qos=("acc_debug",), default_qos="acc_debug", max_queued=None, max_minutes=None)
    seen = Seen(
        partitions={"acc": partition}, kinds=[Kind(node=node, number=4, cores=80)], limits=limits,
        qos={"acc_debug": debug, "acc_long": replace(debug, name="acc_long")}, associations=[ours],
    )  # fmt: skip
    cluster = ClusterConfig(
        name="mn5", scheduler="slurm", partition="acc", qos="acc_debug", account="ehpc01", gpus_per_node=4, cores_per_node=80,
        queues={"acc_debug": QueueConfig(walltime_minutes=120, nodes=16)},
    )  # fmt: skip
    facts = {fact.key: fact for fact in compare(cluster, seen)}
    assert {key for key, fact in facts.items() if fact.verdict == AGREES} == {
        "partition", "account", "qos", "queues.acc_debug.walltime_minutes", "cores_per_node", "gres", "gpus_per_node"
    }  # fmt: skip
    assert (facts["queues.acc_debug.nodes"].verdict, facts["queues.acc_debug.nodes"].level, facts["queues.acc_debug.nodes"].better) == (DIFFERS, PROBLEM, "8")

    def theirs(key: str, **changes: object) -> str:
        fact = next(fact for fact in compare(replace(cluster, **changes), seen) if fact.key == key)
        assert (fact.verdict, fact.level) == (DIFFERS, PROBLEM)
        return fact.theirs

    assert theirs("account", account="other") == "this user has ehpc01"
    assert theirs("account", account="", account_required=True) == "an account must be given: this user has ehpc01"
    assert theirs("qos", qos="gp_debug") == "partition acc takes acc_debug, acc_long"
    assert theirs("qos", qos="acc_long") == "account ehpc01 may use acc_debug"
    assert theirs("gres", gres="gpu:a100") == "gpu:h100:4(S:0-1)"


def test_shipped_profiles_are_compared_without_a_word_that_fails(slurm: SlurmCluster) -> None:
    """None of them is this cluster: each must be told so in full, and the line to mend be the right one."""
    for name, path in profiles().items():
        cluster = load_profile(path)
        if not cluster.is_slurm or not cluster.partition:
            continue
        found = list(check_slurm(cluster, path))
        partition = named(found, "partition")
        assert partition.level == PROBLEM, name
        line = int(partition.mend.rpartition(":")[2])
        assert path.read_text().splitlines()[line - 1].startswith("partition:"), name
        assert named(found, "a training job").level == PROBLEM


def test_lines_of_nested_settings_are_found(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text("name: x\nqueues:\n  a: {nodes: 4}\n  b:\n    nodes: 5\nnodes: 2\ndevice:\n  name: y\n")
    expected = {"queues.a.nodes": 3, "queues.b.nodes": 5, "nodes": 6, "device.name": 8, "cores_per_node": 0, "name": 1, "device.watts": 7}
    assert {key: profile_line(path, key) for key in expected} == expected
    assert profile_line(tmp_path / "gone.yaml", "name") == 0


def test_a_profile_that_differs_from_its_gpu_is_told_by_name() -> None:
    gpu = {"name": "NVIDIA A100-SXM-64GB", "memory_bytes": 64 * 2**30, "capability": [8, 0], "error": ""}
    told = Probe(told={"torch": "2.13.0", "cuda": "12.4", "hip": None, "gpus": [{"value": [gpu]}]})
    found = named(check_gpus(told, replace(LAB, device=DeviceConfig(name="NVIDIA H100 64GB HBM2"))), "device.name")
    assert found.level == NOTE
    assert "NVIDIA H100 64GB HBM2" in found.seen
