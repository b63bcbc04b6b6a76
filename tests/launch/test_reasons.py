"""Why a job ended: real logs of Slurm, torch and IberLM, read as a person would read them."""

import pytest

from iberlm.launch.status.reasons import clean, explain_status, find_reason, last_start

REASONS = {
    # logs as Slurm 22.05, torch 2 and IberLM write them
    "time limit": (
        """slurmstepd-node1: error: *** STEP 1.0 ON node1 CANCELLED AT 2026-11-23T01:12:46 DUE TO TIME LIMIT ***
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
slurmstepd-node1: error: *** JOB 1 ON node1 CANCELLED AT 2026-11-23T01:12:46 DUE TO TIME LIMIT ***
srun: error: node1: task 0: Terminated""",
        "ran into its time limit",
        "cluster.walltime_minutes",
    ),
    "node failure": (
        """srun: error: Node failure on node3
slurmstepd-node2: error: *** JOB 8 ON node2 CANCELLED AT 2026-11-23T01:12:04 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***
0: slurmstepd-node2: error: *** STEP 8.0 ON node2 CANCELLED AT 2026-11-23T01:12:04 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***
srun: error: node2: task 0: Terminated""",
        "the node node3 failed",
        "goes on from what is saved",
    ),
    "preemption": (
        "slurmstepd: error: *** JOB 5 ON node1 CANCELLED AT 2026-11-23T01:12:04 DUE TO PREEMPTION ***",
        "had to make room for another job (preemption)",
        "",
    ),
    "scancel": (
        """slurmstepd-node1: error: *** JOB 6 ON node1 CANCELLED AT 2026-11-23T01:11:42 ***
slurmstepd-node1: error: *** STEP 6.0 ON node1 CANCELLED AT 2026-11-23T01:11:42 ***
srun: error: node1: task 0: Terminated""",
        "was cancelled at 2026-11-23T01:11:42",
        "",
    ),
    "a rank killed": (
        """0: hi
srun: error: node2: task 1: Killed
srun: launch/slurm: _step_signal: Terminating StepId=2.0
0: slurmstepd-node1: error: *** STEP 2.0 ON node1 CANCELLED AT 2026-11-23T01:11:37 ***
srun: error: node1: task 0: Terminated
0: torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error, NCCL version 2.21.5""",
        "rank 1 on node2 was killed, most often for lack of memory",
        "cluster.memory_gb_per_node",
    ),
    "cgroup": (
        """slurmstepd: error: Detected 1 oom_kill event in StepId=17.0. Some of the step tasks have been OOM Killed.
srun: error: nid001: task 3: Out Of Memory""",
        "used more memory than the job was given",
        "cluster.memory_gb_per_node",
    ),
    "GPU memory": (
        """1: Traceback (most recent call last):
1:   File "<string>", line 4, in <module>
1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 63.42 GiB
srun: error: node1: task 1: Exited with exit code 1
0: RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:16344
srun: Force Terminated StepId=3.0""",
        "a GPU ran out of memory",
        "micro_batch_size",
    ),
    "our own words": (
        """2026-11-23T01:12:04 pretrain: start (runs/x/pretrain)
1: Traceback (most recent call last):
1: ValueError: x
2026-11-23T01:13:04 end: pretrain, job 5: failed with status 6; it is requeued
iberlm: pretrain: nothing moves any more: rank 1 on host node17 (process 7980): has not run for 1,810 s""",
        "pretrain: nothing moves any more: rank 1 on host node17 (process 7980): has not run for 1,810 s",
        "",
    ),
    "our own words of a known fault": (
        "iberlm: rank 1 of 4 ended with status 1; its last line: torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB",
        "rank 1 of 4 ended with status 1; its last line: torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB",
        "micro_batch_size",
    ),
    "told to stop, which is no error": ("iberlm: pretrain: stopped at step 11 of 3000 on SIGUSR2; run the same command again to go on", None, ""),
    "exceptions of two ranks": (
        """0: Traceback (most recent call last):
1: Traceback (most recent call last):
1:   File "loop.py", line 4, in train
0:   File "loop.py", line 4, in train
1: json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)
0: torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, Connection closed by remote peer node1<41231>
srun: error: node1: tasks 0-1: Exited with exit code 1""",
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "",
    ),
    "no module in Python": (
        "Traceback (most recent call last):\nModuleNotFoundError: No module named 'peft'",
        "the job's Python has no module 'peft'",
        "cluster.python",
    ),
    "no package to run": ("/usr/bin/python3: No module named iberlm", "the job's Python has no module iberlm", "cluster.python"),
    "no program": ("/var/spool/job00005/slurm_script: line 5: module: command not found", "the node has no program 'module'", "cluster.modules"),
    "no program for srun": (
        "slurmstepd-node1: error: execve(): no_such_command: No such file or directory\nsrun: error: node1: task 0: Exited with exit code 2",
        "the node has no program 'no_such_command'",
        "",
    ),
    "no module to load": (
        'Lmod has detected the following error: The following module(s) are unknown: "cuda/99"',
        "there is no module 'cuda/99' to load",
        "cluster.modules",
    ),
    "no module to load, Tcl": ("ERROR: Unable to locate a modulefile for 'cuda/99'", "there is no module 'cuda/99' to load", "cluster.modules"),
    "srun refused": (
        "srun: error: Unable to create step for job 5: More processors requested than permitted",
        "srun cannot start the ranks: More processors requested than permitted",
        "cluster.tasks_per_node",
    ),
    "disk": ("OSError: [Errno 28] No space left on device: '/scratch/x'", "the disk is full", "free some"),
    "quota": ("OSError: [Errno 122] Disk quota exceeded", "the quota is used up (bytes, or number of files)", "free some"),
    "library": (
        "python3: error while loading shared libraries: libcudart.so.12: cannot open shared object file: No such file or directory",
        "the library libcudart.so.12 is not found on the node",
        "",
    ),
    "image": ("FATAL:   could not open image /x/y.sif: failed to retrieve path", "the container image /x/y.sif cannot be opened", "cluster.container.image"),
    "offline": (
        "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://huggingface.co/x",
        "something that a hub would give is not there",
        "iberlm prefetch",
    ),
    "only what follows": ("srun: error: node1: task 0: Exited with exit code 3", "rank 0 on node1: Exited with exit code 3", ""),
    "colours and control characters": ("\x1b[31miberlm:\x1b[0m raw: 'a\x07b' is damaged", "raw: 'a\ufffdb' is damaged", ""),
    "nothing": ("2026-11-23T01:12:04 pretrain: step 10/20 loss 8.2 lr 3e-4\n\n", None, ""),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_line_nearest_to_the_cause_is_told_in_plain_words(name: str) -> None:
    log, text, mend = REASONS[name]
    found = find_reason(log.splitlines())
    assert (found.text if found else None) == text
    assert mend in (found.mend if found else "")


def test_only_the_last_start_of_a_log_is_looked_at() -> None:
    log = [
        "iberlm: the first start's error",
        "2026-11-23T01:12:04 start: pretrain, job 17_3, start 2 on 2 nodes: node1, node2",
        "srun: error: node2: task 1: Killed",
    ]
    found = find_reason(last_start(log))
    assert found is not None
    assert found.text.startswith("rank 1 on node2 was killed")


def test_exit_statuses_are_explained() -> None:
    assert explain_status(137) == "killed, most often for lack of memory"
    assert "saved" in explain_status(75)
    assert "SIGHUP" in explain_status(129)
    assert explain_status(255) == "the job failed"


def test_control_characters_of_a_log_do_nothing_to_a_terminal() -> None:
    assert clean("\x1b[2J\x1b]0;title\x07a\tb\r\n") == "\ufffd]0;title\ufffda\tb"
