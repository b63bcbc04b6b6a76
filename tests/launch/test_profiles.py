"""Cluster profiles: typed, each fact with its source, and unverified ones refused until somebody answers for them."""

import dataclasses
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.cluster import ClusterConfig, ContainerConfig, FactConfig, setting
from iberlm.core.errors import ConfigError
from iberlm.launch.profile import load_profile, profiles, require_verified, unverified

CLUSTERS = [name for name in profiles() if name != "local"]
STATED = ("name", "scheduler", "facts", "confirmed")
"""Settings that need no source."""


def changed(value: Any, default: Any, key: str = "") -> list[str]:
    """Names of all settings that are not as by default, dots for nested ones; of a dictionary, each entry."""
    if dataclasses.is_dataclass(value):
        pairs = [(entry.name, getattr(value, entry.name), getattr(default, entry.name, None)) for entry in dataclasses.fields(value)]
    elif isinstance(value, dict):
        entry_default = type(next(iter(value.values())))() if value and dataclasses.is_dataclass(next(iter(value.values()))) else None
        pairs = [(name, entry, entry_default) for name, entry in value.items()]
    else:
        return [] if value == default else [key]
    return [found for name, entry, usual in pairs if key or name not in STATED for found in changed(entry, usual, f"{key}.{name}" if key else name)]


def test_the_profiles_that_are_promised_are_there() -> None:
    assert list(profiles()) == ["finisterrae3", "generic", "jupiter", "leonardo_booster", "local", "lumi_g", "marenostrum5_acc", "marenostrum5_gpp"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_setting_of_a_profile_has_a_fact_with_source_and_date(name: str) -> None:
    cluster = load_profile(profiles()[name])
    assert (cluster.name, cluster.scheduler, cluster.confirmed) == (name, "slurm", [])
    assert sorted(cluster.facts) == sorted(changed(cluster, ClusterConfig()))
    for key, fact in cluster.facts.items():
        assert fact.source, key
        assert fact.date.startswith("202"), key
    if name == "marenostrum5_acc":
        assert not cluster.login_internet


@pytest.mark.parametrize("name", CLUSTERS)
def test_ranks_share_a_node_evenly(name: str) -> None:
    cluster = load_profile(profiles()[name])
    assert cluster.cores_per_node % cluster.ranks_per_node == 0
    assert bool(cluster.gpus_per_node) == (cluster.accelerator != "none")


def acc(**changes: Any) -> ClusterConfig:
    return replace(load_profile(profiles()["marenostrum5_acc"]), account="bsc1", **changes)


def test_unverified_facts_are_refused_with_their_source_and_what_to_write() -> None:
    cluster = acc()
    names = list(unverified(cluster))
    assert {"qos", "queues.acc_ehpc.walltime_minutes", "environment.NCCL_IB_HCA"} <= set(names)
    assert not {"partition", "gpus_per_node", "device.watts", "container.image", "queues.acc_debug.nodes"} & set(names)
    with pytest.raises(ConfigError, match=rf"these {len(names)} facts .*\n  qos = acc_ehpc: projects of EuroHPC") as caught:
        require_verified(cluster)
    assert f"'cluster.confirmed=[{','.join(names)}]'" in str(caught.value)
    assert "iberlm doctor cluster=marenostrum5_acc" in str(caught.value)
    require_verified(acc(confirmed=names))


def test_a_fact_that_is_listed_or_given_another_value_is_confirmed() -> None:
    names = list(unverified(acc()))
    assert list(unverified(acc(confirmed=["qos"]))) == [name for name in names if name != "qos"]
    hca = acc().environment | {"NCCL_IB_HCA": "mlx5_0,mlx5_1,mlx5_4,mlx5_5"}
    assert list(unverified(acc(environment=hca))) == [name for name in names if name != "environment.NCCL_IB_HCA"]
    without = {key: value for key, value in acc().environment.items() if key != "NCCL_IB_HCA"}
    assert list(unverified(acc(environment=without))) == [name for name in names if name != "environment.NCCL_IB_HCA"]
    # the same value is no answer
    assert list(unverified(acc(environment=dict(acc().environment)))) == names


def test_only_the_queue_that_is_asked_for_counts() -> None:
    assert {name for name in unverified(acc(qos="acc_debug")) if "queue" in name} == {"queues.acc_debug.walltime_minutes", "queues.acc_debug.nodes"}
    assert not [name for name in unverified(acc(qos="mine")) if "queue" in name]


def test_facts_of_a_container_count_where_there_is_one() -> None:
    cluster = load_profile(profiles()["leonardo_booster"])
    assert not [name for name in unverified(cluster) if name.startswith("container")]
    container = replace(cluster.container, image="/gpfs/iberlm.sif")
    assert [name for name in unverified(replace(cluster, container=container)) if "container" in name] == [
        "container.runtime",
        "container.options",
        "container.binds",
    ]
    assert "container.binds" not in unverified(replace(cluster, container=replace(container, binds=["/gpfs"])))


def test_a_profile_of_ones_own_answers_for_all_its_unverified_facts() -> None:
    facts = {"partition": FactConfig(source="a colleague"), "qos": FactConfig(source="the user guide", verified=True), "exclusive": FactConfig()}
    cluster = ClusterConfig(name="mine", scheduler="slurm", partition="gpu", qos="normal", exclusive=False, facts=facts)
    assert list(unverified(cluster)) == ["partition", "exclusive"]
    with pytest.raises(ConfigError, match=r"partition = gpu: a colleague\n  exclusive = false: no source"):
        require_verified(cluster)
    require_verified(replace(cluster, confirmed=["partition", "exclusive"]))
    require_verified(replace(cluster, partition="", confirmed=["exclusive"]))


def test_this_machine_needs_no_confirmation() -> None:
    for cluster in (ClusterConfig(), load_profile(profiles()["generic"])):
        assert unverified(cluster) == {}
        require_verified(cluster)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\npartitoin: b\n", "partitoin: unknown key; did you mean 'partition'"),
        ("name: a\nqueues: {a: {walltime: 3}}\n", "queues.a.walltime: unknown key; did you mean 'walltime_minutes'.* there are: walltime_minutes, nodes"),
        ("name: a\ncontainer: {imag: x}\n", "container.imag: unknown key; did you mean 'image'"),
        ("name: a\nfacts: {qos: {verifid: true}}\n", "facts.qos.verifid: unknown key; did you mean 'verified'"),
        ("name: a\nfacts: {partiton: {}}\n", "facts.partiton: there is no such setting; did you mean 'partition'"),
        ("name: a\nfacts: {container.imag: {}}\n", "facts.container.imag: there is no such setting"),
        ("name: a\nnodes: many\n", "nodes: Value 'many' of type 'str' could not be converted to Integer"),
        ("name: a\nscheduler: pbs\n", "cluster.scheduler: unknown value 'pbs'; choose among local, slurm"),
        ("name: a\nconfirmed: [qos]\n", "cluster.confirmed: 'qos' is no fact of the profile; its facts: none"),
        ("name: a\nfacts: {qos: {}}\nconfirmed: [qso]\n", "cluster.confirmed: 'qso' is no fact of the profile; did you mean 'qos'"),
        ("name: [a\n", "no YAML"),
        ("- a\n", "no profile"),
        ("", "no profile"),
        ("partition: a\n", "no profile"),
        ("defaults: [generic]\nname: a\n", "a profile with 'defaults' is read as cluster=own with --config-dir"),
        ("name: a\nenvironment: {A: null}\n", "environment.A: "),
        ("name: a\x00b\n", "no YAML"),
    ],
)
def test_a_faulty_profile_is_told_with_path_and_key(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"own.yaml: {words}"):
        load_profile(path)


def test_a_profile_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_profile(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"bytes.yaml: "):
        load_profile(tmp_path / "bytes.yaml")


def test_facts_name_settings_as_setting_does() -> None:
    cluster = acc(container=ContainerConfig(image="x"))
    assert setting(cluster, "queues.acc_debug.nodes") == 8
    assert setting(cluster, "environment.SLURM_CPU_BIND") == "none"


REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "clusters.md"


def fact_table(cluster: ClusterConfig) -> str:
    """The facts of a profile, as the reference has them."""
    rows = [f"| setting of `{cluster.name}` | value | source | verified |", "|---|---|---|---|"]
    for key, fact in cluster.facts.items():
        value = setting(cluster, key)
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
        rows.append(f"| `{key}` | `{shown}` | {fact.source} ({fact.date}) | {'yes' if fact.verified else 'no'} |")
    return "\n".join(rows)


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the documentation is no part of this copy")
@pytest.mark.parametrize("name", [name for name in CLUSTERS if name != "generic"])
def test_the_reference_has_the_facts_of_each_profile(name: str) -> None:
    """Rewritten by IBERLM_WRITE_GOLDEN=1, like the golden files."""
    text, begin, end = REFERENCE.read_text(encoding="utf-8"), f"<!-- facts: {name} -->\n", "\n<!-- end -->"
    before, _, rest = text.partition(begin)
    table, _, after = rest.partition(end.lstrip("\n"))
    wanted = f"\n{fact_table(load_profile(profiles()[name]))}\n\n"
    if os.environ.get("IBERLM_WRITE_GOLDEN"):
        REFERENCE.write_text(f"{before}{begin}{wanted}{end.lstrip()}{after}", encoding="utf-8")
    else:
        assert table == wanted
