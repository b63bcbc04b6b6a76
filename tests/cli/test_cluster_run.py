"""Which jobs a verb or a pipeline becomes on a cluster; nothing here asks Slurm."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from iberlm.cli.cluster_run import pipeline_works, planned, works_of
from iberlm.cli.hydra_app import compose_settings
from iberlm.cli.verbs import VERBS
from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError
from iberlm.core.resources import resource_dir
from iberlm.core.stage import WouldRunError
from iberlm.launch.work import CPU, GPU, RANKS, Work, size_of

SLURM = ["cluster=generic", "cluster.partition=main", "cluster.walltime_minutes=60", "cluster.cores_per_node=8"]


def pipeline(tmp_path: Path, *more: str) -> Any:
    return compose_settings(VERBS["run"], ["pipeline=demo", f"run_dir={tmp_path / 'run'}", *SLURM, *more])


def order(works: list[Work]) -> dict[str, list[str]]:
    return {work.name: work.after for work in works}


def test_each_stage_waits_for_those_that_it_reads(tmp_path: Path) -> None:
    assert order(planned(VERBS["run"], pipeline(tmp_path))) == {
        "fetch": [],
        "curate": ["fetch"],
        "train_tokenizer": ["curate"],
        "tokenize": ["train_tokenizer"],
        "pretrain": ["tokenize"],
        "evaluate": ["pretrain"],
        "finetune": ["pretrain"],
        "evaluate_finetuned": ["evaluate", "finetune"],
        "report": ["evaluate", "evaluate_finetuned"],
    }


def test_a_stage_that_is_left_out_hands_on_what_it_would_have_waited_for(tmp_path: Path) -> None:
    works = planned(VERBS["run"], pipeline(tmp_path, "stages=[fetch,tokenize,report]"))
    assert order(works) == {"fetch": [], "tokenize": ["fetch"], "report": ["tokenize"]}


def test_stages_on_clusters_of_their_own(tmp_path: Path) -> None:
    more = ["cluster@curate.cluster=marenostrum5_gpp", "curate.cluster.elements=4", "pretrain.cluster.nodes=3", "pretrain.strategy.name=fsdp2"]
    config = pipeline(tmp_path, *more, "pretrain.cluster.tasks_per_node=2", "pretrain.global_batch_tokens=12288")
    works = {work.name: work for work in planned(VERBS["run"], config)}
    assert works["curate"].cluster.name == "marenostrum5_gpp"
    assert works["tokenize"].cluster.name == "generic"
    assert works["pretrain"].size.ranks == 6
    assert works["pretrain"].size.cpus_per_task == 4
    assert works["fetch"].size.ranks == 1
    assert works["evaluate"].uses_gpus


def test_curation_on_several_nodes_is_arrays_and_what_joins_them(tmp_path: Path) -> None:
    config = pipeline(tmp_path, "curate.cluster.elements=4", "stages=[fetch,curate]")
    works = planned(VERBS["run"], config)
    assert order(works) == {
        "fetch": [],
        "curate-extract-array": ["fetch"],
        "curate-extract": ["curate-extract-array"],
        "curate-annotate-array": ["curate-extract"],
        "curate": ["curate-annotate-array"],
    }
    named = {work.name: work for work in works}
    assert (named["curate-extract-array"].share, named["curate-extract-array"].elements) == (4, [0, 1, 2, 3])
    assert named["curate-extract"].arguments == ["--until", "extract"]
    assert named["curate"].arguments == []


def test_of_curation_only_what_is_left_becomes_jobs(tmp_path: Path) -> None:
    curate = pipeline(tmp_path, "curate.cluster.elements=4").curate
    names = [work.name for work in works_of("curate", curate, WouldRunError("annotate", tmp_path, "key"))]
    assert names == ["curate-annotate-array", "curate"]
    assert [work.name for work in works_of("curate", curate, WouldRunError("select", tmp_path, "key"))] == ["curate"]


def test_a_stage_that_runs_here_cannot_wait_for_jobs(tmp_path: Path) -> None:
    config = pipeline(tmp_path, "cluster@report.cluster=local")
    with pytest.raises(ConfigError, match=r"report.cluster: 'local' runs here and now, but the stage waits for jobs \(evaluate, evaluate_finetuned\)"):
        planned(VERBS["run"], config)


def test_first_stages_run_here_when_they_are_told_to(tmp_path: Path) -> None:
    ran: list[str] = []
    works, _ = pipeline_works(pipeline(tmp_path, "cluster@fetch.cluster=local", "stages=[fetch]"), {}, ran.append)
    assert (ran, works) == (["fetch"], [])


def test_what_no_run_would_start_with_is_refused_before_it_waits_in_a_queue(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="strategy=single runs one process and there are 2 ranks"):
        planned(VERBS["run"], pipeline(tmp_path, "pretrain.cluster.nodes=2"))
    with pytest.raises(ConfigError, match="global_batch_examples"):
        planned(VERBS["run"], pipeline(tmp_path, "finetune.cluster.nodes=3"))
    # and a stage that is not asked for stands in nobody's way
    planned(VERBS["run"], pipeline(tmp_path, "finetune.cluster.nodes=3", "stages=[fetch,curate]"))


def test_a_pipelines_stages_take_every_setting_of_its_cluster() -> None:
    lines = (resource_dir("recipes") / "cluster/_pipeline.yaml").read_text().splitlines()
    assert {line.partition(":")[0] for line in lines if not line.startswith("#")} == {entry.name for entry in dataclasses.fields(ClusterConfig)}


def test_sizes() -> None:
    node = ClusterConfig(name="x", scheduler="slurm", cores_per_node=80, gpus_per_node=4, nodes=2, exclusive=True)
    ranks = size_of(RANKS, node)
    assert (ranks.nodes, ranks.tasks_per_node, ranks.cpus_per_task, ranks.gpus_per_node, ranks.exclusive) == (2, 4, 20, 4, True)
    one = size_of(GPU, node)
    assert (one.nodes, one.cpus_per_task, one.gpus_per_node, one.exclusive) == (1, 20, 1, False)
    assert size_of(GPU, node, whole_node=True).gpus_per_node == 4
    cores = size_of(CPU, node)
    assert (cores.nodes, cores.cpus_per_task, cores.gpus_per_node) == (1, 80, 0)
    assert size_of(CPU, dataclasses.replace(node, workers=16)).cpus_per_task == 16
