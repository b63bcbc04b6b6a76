"""Slurm's states, reasons and refusals in plain words, each with the mend.

The reasons are those of Slurm 22.05 to 25.x (its own page: https://slurm.schedmd.com/job_reason_codes.html). Most follow a pattern
(whose limit, of what, for whom), which is read instead of being listed two hundred times.
"""

import re

from iberlm.core.errors import ConfigError, IberlmError, ResourceError

FINISHED = frozenset("BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED RECONFIG_FAIL REVOKED TIMEOUT".split())
"""States of jobs that neither wait nor run."""

_AGAIN = "run the same command again: it goes on from what is saved"
_CANCEL = "cancel it (iberlm cancel), change the setting and submit again"
_STATES = {
    "BOOT_FAIL": f"its nodes did not boot; {_AGAIN}",
    "CANCELLED": "was cancelled",
    "COMPLETING": "has ended; Slurm tidies its nodes up",
    "CONFIGURING": "its nodes are being made ready",
    "DEADLINE": "was ended at its deadline",
    "FAILED": "ended with an error; its log says which (iberlm logs)",
    "LAUNCH_FAILED": f"could not be launched on its nodes; {_AGAIN}",
    "NODE_FAIL": f"a node failed under it; {_AGAIN}",
    "OUT_OF_MEMORY": "used more memory than it had asked for; raise cluster.memory_gb_per_node, or let it need less",
    "PREEMPTED": f"had to make room for a job of higher priority; {_AGAIN}",
    "RECONFIG_FAIL": f"a node could not be set up for it; {_AGAIN}",
    "REQUEUED": "is being put back into the queue",
    "REQUEUE_FED": "is being put back into the queue",
    "REQUEUE_HOLD": "was put back into the queue and is held: `scontrol release JOB` lets it start",
    "RESV_DEL_HOLD": "is held because its reservation was deleted; change cluster.reservation and submit again",
    "REVOKED": "was taken over by another cluster of the federation",
    "SIGNALING": "is being sent a signal",
    "SPECIAL_EXIT": "ended in a way that the centre holds jobs for: `scontrol release JOB` lets it start again",
    "STAGE_OUT": "has ended; its files are being copied from the burst buffer",
    "STOPPED": "was stopped, and keeps its nodes",
    "SUSPENDED": "was suspended, to go on later",
    "TIMEOUT": f"ran into its time limit; {_AGAIN} (longer: cluster.walltime_minutes)",
}

_NEVER = True
_REASONS: list[tuple[str, str, bool]] = [
    # (whole reason, plain words, it can never start as it is)
    # waiting as it should
    ("None", "has not been looked at by the scheduler yet", False),
    ("Priority", "jobs of higher priority are before it", False),
    ("Resources", "is next in turn, as soon as enough nodes are free", False),
    ("Dependency", "waits for other jobs to end", False),
    ("JobArrayTaskLimit", "as many elements of its array run as may at once (cluster.max_running)", False),
    ("BeginTime", "may not begin yet: after a requeue Slurm waits up to some minutes; this is no fault", False),
    ("Cleaning", "was put back into the queue, and its last run is being tidied up", False),
    ("Reservation", "waits for its reservation to begin (cluster.reservation)", False),
    ("Licenses", "waits for a licence to be free (cluster.extra)", False),
    ("Prolog", "its nodes are being made ready", False),
    ("SchedDefer", "the scheduler starts no job at once here; it will be looked at", False),
    ("BurstBuffer.*", "waits for the burst buffer", False),
    ("Fed(eration)?JobLock", "waits for another cluster of the federation", False),
    ("FrontEndDown", "no front-end node is up; only the centre can mend that", False),
    ("PartitionDown", "its partition is closed: it starts when the centre opens it; another one: cluster.partition", False),
    ("PartitionInactive", "its partition takes jobs, but starts none now; another one: cluster.partition", False),
    ("ReqNodeNotAvail, Reserved for maintenance", "maintenance begins before it could end: it starts afterwards, or now if shorter", False),
    ("ReqNodeNotAvail, UnavailableNodes:.*", "nodes that it needs are down, drained or reserved; it starts when they are back", False),
    ("ReqNodeNotAvail.*", "nodes that it needs are reserved or not available now; a shorter job may start sooner", False),
    (
        "Nodes required for job are DOWN, DRAINED or reserved.*",
        "too few nodes are up and free of reservations; it starts when others are back (sinfo -R says what is wrong with them)",
        False,
    ),
    ("NodeDown", "a node that it needs is down; it starts when that is back", False),
    # a person must do something
    ("JobHeldUser", "is held by its owner: `scontrol release JOB` lets it start", False),
    ("JobHeldAdmin", "is held by the centre (or after a failed launch): ask the centre why, or `scontrol release JOB`", False),
    ("launch failed requeued held", "could not be launched and is held: `scontrol release JOB` lets it start again; tell the centre if it fails twice", False),
    ("job requeued in held state", "was put back into the queue and is held: `scontrol release JOB` lets it start", False),
    ("JobHoldMaxRequeue", "was put back into the queue too often and is held: find the cause in its log, then `scontrol release JOB`", False),
    ("QOSUsageThreshold", "the account has used more than its QOS lets it; it starts when usage has decayed, or under another cluster.qos", False),
    ("AccountingPolicy|AssociationResourceLimit|QOSResourceLimit", "a limit of the account or QOS is reached; it starts when other jobs end", False),
    ("AssociationTimeLimit|QOSTimeLimit", "the time that the account or QOS may use is used up", False),
    ("AssociationJobLimit|QOSJobLimit", "as many jobs run as the account or QOS may have; it starts when one ends", False),
    # it waits for ever
    ("DependencyNeverSatisfied", "a job that it waited for failed or was cancelled; mend that, then run the same command again", _NEVER),
    ("BadConstraints", f"no node has what it asks for (cluster.constraint, gpus_per_node, memory_gb_per_node, cores_per_node); {_CANCEL}", _NEVER),
    ("PartitionTimeLimit", f"asks for more time than its partition gives (cluster.walltime_minutes, cluster.partition); {_CANCEL}", _NEVER),
    ("PartitionNodeLimit", f"asks for more nodes than its partition gives, or than are up (cluster.nodes, cluster.partition); {_CANCEL}", _NEVER),
    ("PartitionConfig", f"asks for what its partition does not give: time, nodes, cores or memory; {_CANCEL}", _NEVER),
    ("InvalidAccount", f"its account is not known any more (cluster.account); {_CANCEL}", _NEVER),
    ("AccountNotAllowed|Job's account not .*", f"its account may not use this partition (cluster.account, cluster.partition); {_CANCEL}", _NEVER),
    ("InvalidQOS", f"its QOS is not known any more (cluster.qos); {_CANCEL}", _NEVER),
    ("QOSNotAllowed|Job's QOS not .*", f"its QOS may not be used with this account or partition (cluster.qos); {_CANCEL}", _NEVER),
    ("MaxMemPerLimit", f"asks for more memory than a job may have on a node (cluster.memory_gb_per_node); {_CANCEL}", _NEVER),
    ("ReservationDeleted", f"its reservation does not exist any more (cluster.reservation); {_CANCEL}", _NEVER),
    ("Job's requested licenses are invalid.*", f"asks for a licence that there is not (cluster.extra); {_CANCEL}", _NEVER),
    ("Job's required and excluded node lists overlap.*", f"asks for a node that it excludes (cluster.exclude, the run's quarantine); {_CANCEL}", _NEVER),
    ("DeadLine", f"cannot end before its deadline any more; {_CANCEL}", _NEVER),
    # why a job ended
    ("NonZeroExitCode|Failed.*|RaisedSignal.*", "ended with an error; its log says which (iberlm logs)", False),
    ("TimeLimit", _STATES["TIMEOUT"], False),
    ("OutOfMemory", _STATES["OUT_OF_MEMORY"], False),
    ("JobLaunchFailure", "could not be launched: a program or folder is missing on the node, or the node is not well; see its log", False),
    ("SystemFailure", f"Slurm or its network failed; {_AGAIN}", False),
    ("InactiveLimit", f"was ended because its step did nothing for too long; {_AGAIN}", False),
]  # fmt: skip

_OF_WHAT = {
    "bb": "burst buffer",
    "billing": "billed units",
    "cpu": "cores",
    "energy": "energy",
    "gres": "GPUs",
    "jobs": "jobs",
    "license": "licences",
    "mem": "memory",
    "memory": "memory",
    "node": "nodes",
    "submitjobs": "queued jobs",
    "submitjob": "queued jobs",
    "unknown": "resources",
    "wall": "time",
    "wallduration": "walltime",
}
_LIMIT = re.compile(
    r"(?P<owner>Assoc|QOS)(?P<kind>Grp|Max|Min)(?P<what>WallDuration|SubmitJobs?|BB|Billing|Cpu|CPU|Energy|GRES|Jobs|License|Memory|Mem|Node|Unknown|Wall)"
    r"(?P<minutes>RunMinutes|Minutes)?(?P<whom>PerJob|PerNode|PerUser|PerAccount)?(?:NotSatisfied)?(?:Limit)?"
)
_PER_ACCOUNT = re.compile(r"Max(?P<what>SubmitJobs|BB|Billing|Cpu|Energy|GRES|Jobs|License|Memory|Mem|Node|Unknown)(?P<minutes>RunMinutes)?PerAccount")


def explain(state: str, reason: str) -> str:
    """What a job's state and Slurm's reason mean and what to do, in plain words; "" when there is nothing to say (it runs, or has succeeded)."""
    state, reason = state.upper().partition(" ")[0], _plain(reason)
    if state == "PENDING":
        return _explained(reason)[0]
    if state in ("FAILED", "CANCELLED", "DEADLINE"):
        words, never = _explained(reason)
        if never:  # Slurm keeps the reason for which it waited
            return f"{_STATES['CANCELLED'] if state == 'CANCELLED' else 'was given up'} while it waited: {words.removesuffix(f'; {_CANCEL}')}"
        if state == "FAILED" and reason not in ("", "None"):
            return words
    return _STATES.get(state, "")


def never_starts(reason: str) -> bool:
    """A waiting job with this reason does not start however long it waits, unless the job or the cluster is changed."""
    return _explained(_plain(reason))[1]


def _plain(reason: str) -> str:
    # scontrol writes underscores where squeue writes spaces; squeue's default format adds parentheses
    reason = reason.strip().removeprefix("(").removesuffix(")")
    return reason if " " in reason else reason.replace("_", " ")


def _explained(reason: str) -> tuple[str, bool]:
    for pattern, words, never in _REASONS:
        if re.fullmatch(pattern, reason or "None"):
            return words, never
    if found := _LIMIT.fullmatch(reason) or _PER_ACCOUNT.fullmatch(reason):
        return _limit(found.groupdict())
    return f"waits; Slurm gives the reason '{reason}'", False


def _limit(parts: dict[str, str | None]) -> tuple[str, bool]:
    """Of a reason such as QOSMaxCpuPerUserLimit."""
    what = _OF_WHAT[(parts["what"] or "").lower()]
    owner = "account" if parts.get("owner", "Account") in ("Assoc", None, "Account") else "QOS"
    setting = "cluster.qos" if owner == "QOS" else "cluster.account"
    kind, minutes, whom = parts.get("kind", "Max"), parts.get("minutes"), parts.get("whom") or ""
    if kind == "Min":
        return f"asks for less than its {owner} demands of {what} ({setting}); {_CANCEL}", True
    if whom in ("PerJob", "PerNode"):
        of_one = "one job" if whom == "PerJob" else "one node"
        amount = f"more {what} x time" if minutes else f"more {what}"
        return f"asks for {amount} than its {owner} gives {of_one} ({setting}, cluster.nodes, cluster.walltime_minutes); {_CANCEL}", True
    if minutes == "Minutes" or what == "time":
        return (
            f"the budget of its {owner} ({what}{' x time' if minutes else ''}) is used up: it starts when the centre renews it, or under another {setting}",
            False,
        )
    if what == "queued jobs":
        return f"more jobs are queued than its {owner} may have; it is taken up when some have ended", False
    yours = whom == "PerUser" or (kind == "Max" and "owner" in parts)
    if what == "jobs":
        return f"as many {'of your jobs' if yours else 'jobs'} run as its {owner} may have at once; it starts when one of them ends", False
    amount = f"{what} x remaining time" if minutes else what
    return (
        f"{'your other jobs use' if yours else f'the jobs of its {owner} use'} all the {amount} that its {owner} gives; it starts when one of them ends",
        False,
    )


_REFUSALS: list[tuple[str, type[IberlmError], str]] = [
    # (in Slurm's words, kind of error, mend); the first that is found
    (
        r"invalid account or account/partition",
        ConfigError,
        "the account does not exist, is not yours, or may not use the partition: cluster.account, cluster.partition (yours: sacctmgr show assoc user=$USER)",
    ),
    (r"invalid partition|partition name", ConfigError, "there is no such partition: cluster.partition (those that there are: sinfo -s)"),
    (r"invalid qos|qos specification", ConfigError, "there is no such QOS, or not for your account: cluster.qos (yours: sacctmgr show assoc user=$USER)"),
    (
        r"QOSMaxSubmitJob|AssocMaxSubmitJob|AssocGrpSubmitJobs|QOSGrpSubmitJobs|MaxSubmitJobsPer",
        ResourceError,
        "you have as many jobs queued as you may, each element of an array counted: wait until some have ended, or lower cluster.elements",
    ),
    (r"(QOS|Assoc)Max\w*(PerJob|PerNode)|QOSMin\w+", ConfigError, "more than one job may have: cluster.qos, cluster.nodes, cluster.walltime_minutes"),
    (r"time limit is invalid|PartitionTimeLimit", ConfigError, "the walltime is longer than the partition or QOS gives: cluster.walltime_minutes"),
    (
        r"accounting/QOS policy|MaxJobs|job submit limit",
        ConfigError,
        "a limit of your account or QOS: cluster.walltime_minutes, cluster.nodes, cluster.elements, or jobs that are queued already",
    ),
    (r"gres\) specification|GRES", ConfigError, "the nodes have no such GPUs: cluster.gres, cluster.gpus_per_node (those that there are: sinfo -o '%P %G')"),
    (
        r"node configuration is not available|CPU count per node|Memory specification|more processors|tasks than available",
        ConfigError,
        "no node of the partition is so large: cluster.cores_per_node, memory_gb_per_node, gpus_per_node, tasks_per_node, nodes, exclude",
    ),
    (r"node count|PartitionNodeLimit", ConfigError, "more nodes than the partition gives: cluster.nodes"),
    (r"job array specification", ConfigError, "the array is larger than Slurm takes: cluster.elements (scontrol show config: MaxArraySize)"),
    (r"feature specification", ConfigError, "no node has it: cluster.constraint (those that there are: sinfo -o '%P %f')"),
    (r"node name", ConfigError, "a node that there is not: cluster.exclude, and RUN/slurm/quarantine.json"),
    (r"reservation", ConfigError, "there is no such reservation, or you may not use it: cluster.reservation (scontrol show reservation)"),
    (r"license", ConfigError, "there is no such licence: cluster.extra (scontrol show licenses)"),
    (r"wckey", ConfigError, "the centre wants a wckey: cluster.extra=[--wckey=KEY]"),
    (r"dependency", ConfigError, "a job that it is to wait for is not known any more: run the same command again, which finds out what is missing"),
    (r"--time specification", ConfigError, "no time that Slurm takes: cluster.walltime_minutes"),
    (r"script size|too long|exceeds maximum", ConfigError, "the script is larger than Slurm takes: fewer or shorter cluster.environment, modules, extra"),
    (r"invalid (option|--|numeric value)|unrecognized option|ambiguous", ConfigError, "an option that this version of sbatch does not take: cluster.extra"),
    (r"not available \(inactive or drain\)|partition configuration", ConfigError, "the partition takes no jobs now: cluster.partition"),
    (
        r"socket timed out",
        ResourceError,
        "the controller is too busy to answer, and it may have taken the job all the same: look at `squeue --me` before you submit again",
    ),
    (
        r"contact slurm controller|Connection refused|standby mode|configuration file|Zero Bytes|resolve|munge|credential|cannot stat",
        ResourceError,
        "Slurm does not answer: try again later (scontrol ping), or this machine is no login node of the cluster",
    ),
    (r"temporarily unable|try again|denied|disabled|rate limit", ResourceError, "the centre does not let you do this now: try again later, or ask its support"),
]  # fmt: skip


def refusal(action: str, words: str) -> IberlmError:
    """The error for what a program of Slurm wrote when it refused `action`: Slurm's own words, then the mend."""
    told = " ".join(line for raw in words.splitlines() if (line := re.sub(r"^\w+: (error: |fatal: )?", "", raw.strip())))
    told = re.sub(r"\s+", " ", "".join(character if character.isprintable() else " " for character in told)).strip()[:600] or "it gave no reason"
    for pattern, kind, mend in _REFUSALS:
        if re.search(pattern, told, re.IGNORECASE):
            return kind(f"{action}: {told}; {mend}")
    return ResourceError(f"{action}: {told}")
