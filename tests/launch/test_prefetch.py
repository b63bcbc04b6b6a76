"""Bundles: filled from a hub on loopback by the real libraries, moved, and used by processes that have every hub switched off."""

import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from iberlm.cli.prefetch_tool import needs_of, prefetch, prefetch_command
from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError, CorruptError, DataError, IberlmError, ResourceError
from iberlm.core.needs import DATASET, DOWNLOAD, MODEL, PACKAGE, PATH, REFUSED, TOKENIZER, Need, local_folder, path_need
from iberlm.core.staged import read_record
from iberlm.evaluate.catalogue import catalogue
from iberlm.launch.offline.bundle import bundle_environment, check_bundle, importable, missing, read_bundle, require
from iberlm.launch.offline.prefetch import compile_loops, gather
from iberlm.sources.config import CorpusConfig, FetchConfig, SourceConfig
from iberlm.sources.needs import needs as fetch_needs
from tests.launch.local_hub import LocalHub, Repository

SPLITS = (b"train", b"validation", b"test")
A, B, C = "a" * 40, "b" * 40, "c" * 40
XNLI_EU = catalogue()["xnli_eu"].revision
"""The commit that the catalogue asks."""
CARD = b"---\nconfigs:\n- config_name: eu\n  data_files:\n" + b"".join(b"  - {split: %b, path: eu/%b.parquet}\n" % (name, name) for name in SPLITS) + b"---\n"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="zstd")
    return buffer.getvalue()


def weights(seed: int, size: int) -> bytes:
    return save({"numbers": np.frombuffer(random.Random(seed).randbytes(size), np.uint8)})


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Repository]:
    from tests.evaluate.tiny import write_model

    folder = write_model(tmp_path_factory.mktemp("hub") / "tiny", adds_bos=True)
    tiny = {path.name: path.read_bytes() for path in folder.iterdir()}
    rows = [{"premise": "Euria ari du.", "hypothesis": "Bustita dago.", "label": number % 3} for number in range(6)]
    large = {"config.json": b"{}", "model-00001-of-00002.safetensors": weights(0, 12_000_000), "model-00002-of-00002.safetensors": weights(1, 1_000_000)}
    large["model.safetensors.index.json"] = b"{}"
    splits = {f"eu/{name.decode()}.parquet": parquet(rows[: 2 * number]) for number, name in enumerate(SPLITS, 1)}
    repeated = parquet([{"text": "a" * 1_000_000} for _ in range(24)])
    return {
        ("models", "town/tiny"): Repository(A, tiny | {"pytorch_model.bin": b"a pickle", "modeling.py": b"raise SystemExit", "onnx/model.safetensors": b"x"}),
        ("models", "town/large"): Repository(B, large),
        ("models", "town/gated"): Repository(A, tiny, gated=True),
        ("models", "town/pickled"): Repository(A, {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}),
        ("models", "town/program"): Repository(A, large | {"config.json": b'{"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}', "modeling.py": b""}),
        ("models", "town/words"): Repository(A, {"README.md": b"words"}),
        ("datasets", "HiTZ/xnli-eu"): Repository(XNLI_EU, {"README.md": CARD, **splits}),
        ("datasets", "town/set"): Repository(C, {"train.jsonl": b'{"text": "bat"}\n{"text": "bi"}\n'}),
        ("datasets", "town/repeated"): Repository(C, {"train.parquet": repeated}),
        ("datasets", "town/gated"): Repository(C, {"train.jsonl": b'{"text": "bat"}\n'}, gated=True),
    }


@pytest.fixture
def hub(repositories: dict[tuple[str, str], Repository], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """The hub, with the switches of the other tests off, and no token or cache of this machine's user."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with LocalHub(repositories) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def model(name: str = "town/tiny", revision: str = A, kind: str = MODEL) -> Need:
    return Need(kind=kind, name=name, revision=revision, used_by="initial_model")


def dataset(name: str = "town/set", **more: Any) -> Need:
    return Need(kind=DATASET, name=name, used_by="suite", **{"splits": ("train",), **more})


def child(program: str, bundle: Path, *, cwd: Path) -> str:
    """Run a program as a job would, with the bundle and no hub; its last line."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | bundle_environment(bundle)
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip().splitlines()[-1]


EVALUATE = """
from pathlib import Path
from iberlm.evaluate import evaluate
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
suite = SuiteConfig(tasks=["reading"], languages=["eu"])
made = evaluate.run(EvaluateConfig(model_folder="town/tiny@{commit}", suite=suite, limit=2, batch_size=2), [], Path("evaluated"))
print(made.metrics["reading"]["eu"]["n"])
"""

LOAD_TASK = """
from pathlib import Path
from iberlm.evaluate.catalogue import task_facts
from iberlm.evaluate.staging import overrides, staged
from iberlm.evaluate.tasks import load_task
facts = task_facts("xnli_eu", language="eu", licences={{"xnli_eu": "CC-BY-NC-4.0"}})
task = load_task(facts, overrides=overrides(staged(facts, [Path({bundle!r})])), metadata={{}})
print(len(list(task.test_docs())), task.doc_to_choice(next(iter(task.test_docs())))[0])
"""


def test_a_bundle_moved_elsewhere_serves_model_and_task_without_a_hub(hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = ["suite.tasks=[reading]", "+suite.upstream={eu: [xnli_eu]}", "+suite.licences={xnli_eu: CC-BY-NC-4.0}"]
    settings = [*suite, f"model_folder='town/tiny@{A}'", f"run_dir={tmp_path}/run", "validation=''"]
    prefetch("evaluate", settings, out=tmp_path / "bundle", wheels=False, loops=False, check=False)
    assert not hub.downloads("pytorch_model.bin")
    assert not hub.downloads("modeling.py")
    assert not (tmp_path / "home").exists(), "nothing lies outside the bundle"
    items = {item.name: item for item in read_bundle(tmp_path / "bundle")}
    assert items["town/tiny"].commit == A
    found = read_record(tmp_path / "bundle" / "tasks" / "HiTZ--xnli-eu" / "eu" / XNLI_EU)
    assert found is not None
    assert not found.pinned  # the catalogue names the commit
    assert {name: split.rows for name, split in found.splits.items()} == {"train": 2, "test": 6}  # asked, and of solved examples: no validation

    before = len(hub.requests)
    prefetch("evaluate", settings, out=tmp_path / "bundle", wheels=False, loops=False, check=False)
    assert len(hub.requests) == before, "a second call asks nothing"
    prefetch("evaluate", settings, out=tmp_path / "bundle", wheels=False, loops=False, check=True)
    assert "has everything that the job needs" in capsys.readouterr().err

    shutil.copytree(tmp_path / "bundle", tmp_path / "far" / "a b'c", symlinks=True)
    shutil.rmtree(tmp_path / "bundle")
    hub.stop()
    moved = tmp_path / "far" / "a b'c"
    assert check_bundle(moved, [model(), dataset("HiTZ/xnli-eu", config="eu", splits=("test",))], checksums=True) == []
    assert child(EVALUATE.format(commit=A), moved, cwd=tmp_path) == "2"
    assert child(LOAD_TASK.format(bundle=str(moved)), moved, cwd=tmp_path) == "6 Euria ari du., ezta? Bai, Bustita dago."
    assert len(hub.requests) == before, "no job asks the hub"


def test_an_interrupted_download_goes_on_where_it_ended(hub: LocalHub, tmp_path: Path) -> None:
    first, second, need = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", model("town/large", B)
    hub.cut[first] = 11_500_000  # the libraries write blocks of 10 MiB
    hub.refused.add(second)
    with pytest.raises(ResourceError, match=r"town/large@bbbbbbbbbbbb: the hub http://127.0.0.1:\d+ cannot be reached"):
        gather(tmp_path / "bundle", [need])
    ranges = [request.range for request in hub.downloads(first)]
    assert ranges[0] == ""
    assert int(ranges[1].removeprefix("bytes=").rstrip("-")) > 10_000_000  # a broken connection is taken up at once, inside the file
    stale = tmp_path / f"bundle/hub/hub/models--town--large/blobs/{B}.incomplete"
    stale.write_bytes(b"x")  # what a kill leaves of a file
    hub.refused.clear()
    before = len(hub.downloads(first))
    gather(tmp_path / "bundle", [need])
    assert len(hub.downloads(first)) == before, "a file that is whole is not asked for again"
    assert check_bundle(tmp_path / "bundle", [need], checksums=True) == []
    assert not stale.exists()


def test_what_is_missing_or_damaged_is_found_and_mended(hub: LocalHub, tmp_path: Path) -> None:
    bundle, needs = tmp_path / "bundle", [model(), dataset()]
    gather(bundle, needs)
    assert check_bundle(bundle, [*needs, model("town/large", B)]) == [f"initial_model: the model town/large@bbbbbbbbbbbb is not in the bundle {bundle}"]
    assert check_bundle(bundle, [dataset(config="eu")]) == [f"suite: the dataset town/set (eu) is not in the bundle {bundle}"]
    snapshot = bundle / f"hub/hub/models--town--tiny/snapshots/{A}"
    blob = (snapshot / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert check_bundle(bundle, needs) == []  # sizes only: a submission must not read gigabytes
    assert "damaged: its SHA-256" in check_bundle(bundle, needs, checksums=True)[0]
    gather(bundle, needs)
    assert check_bundle(bundle, needs, checksums=True) == []
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(content[:-1])
    (snapshot / "config.json").unlink()
    rows = next(bundle.rglob("train.parquet"))
    rows.unlink()
    found = check_bundle(bundle, needs)
    assert [text.partition(str(bundle))[2].rpartition("/")[2] for text in found] == [
        "config.json is missing",
        f"model.safetensors has {len(content) - 1:,} bytes, not {len(content):,}",
        f"{rows.name} is missing",
    ]
    gather(bundle, needs)
    assert check_bundle(bundle, needs, checksums=True) == []
    (bundle / "bundle.json").write_text('{"format": 1, "items": [{"kind": "model"')
    with pytest.raises(CorruptError, match="not the record of a bundle"):
        check_bundle(bundle, needs)


def test_a_damaged_download_is_refused_and_deleted(hub: LocalHub, tmp_path: Path) -> None:
    hub.spoilt.add("model-00002-of-00002.safetensors")
    with pytest.raises(CorruptError, match=r"model-00002-of-00002.safetensors came damaged from the hub and was deleted"):
        gather(tmp_path / "bundle", [model("town/large", B)])
    assert read_bundle(tmp_path / "bundle") == []
    hub.spoilt.clear()
    gather(tmp_path / "bundle", [model("town/large", B)])
    assert check_bundle(tmp_path / "bundle", [model("town/large", B)], checksums=True) == []


@pytest.mark.parametrize(
    ("need", "kind", "message"),
    [
        (model("town/pickled"), DataError, r"town/pickled@aaaaaaaaaaaa has no \*.safetensors; other formats of weights can carry code"),
        (model("town/program"), DataError, r"needs Python code from its own repository \(auto_map\), which is never run"),
        (model("town/words"), DataError, "has no config.json"),
        (model("town/words", kind=TOKENIZER), DataError, "has no file of a tokenizer"),
        (model("town/nowhere"), ConfigError, "is not on the hub http://127.0.0.1"),
        (model(revision=B), ConfigError, "is not on the hub http://127.0.0.1"),
        (model(revision="main"), ConfigError, "'main' is not a commit of town/tiny"),
        (dataset("town/nowhere"), ConfigError, "the dataset town/nowhere is not on the hub"),
        (dataset(config="none"), DataError, r"the dataset town/set \(none\) cannot be had: .*none"),
        (model("town/gated"), ResourceError, "is gated: ask for access .* into the variable HF_TOKEN"),
        (dataset("town/gated"), ResourceError, "is gated: ask for access .* into the variable HF_TOKEN"),
    ],
)
def test_what_cannot_be_had_is_named_with_the_mend(hub: LocalHub, tmp_path: Path, need: Need, kind: type[IberlmError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        gather(tmp_path / "bundle", [need])
    assert str(caught.value).startswith(f"{need.used_by}: ")
    assert read_bundle(tmp_path / "bundle") == []


def test_a_hub_that_is_away_or_switched_off_is_told(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    for need in (model(), dataset()):
        with pytest.raises(ResourceError, match=r"the hub http://127.0.0.1:\d+ cannot be reached.*on a machine with internet"):
            gather(tmp_path / "bundle", [need])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for need in (model(), dataset()):
        with pytest.raises(ResourceError, match=r"the hub is switched off \(HF_HUB_OFFLINE\); unset that"):
            gather(tmp_path / "bundle", [need])


def test_a_token_opens_what_is_gated_and_is_written_nowhere(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_fromlogin")  # what `hf auth login` leaves
    gather(tmp_path / "bundle", [model("town/gated")])
    monkeypatch.setenv("HF_TOKEN", "hf_fromshell")
    gather(tmp_path / "bundle", [dataset("town/gated")])
    assert {"Bearer hf_fromlogin", "Bearer hf_fromshell"} <= {request.token for request in hub.requests}
    assert not [path for path in (tmp_path / "bundle").rglob("*") if path.is_file() and b"hf_from" in path.read_bytes()]


def test_a_full_disk_is_told_and_keeps_what_was_complete(hub: LocalHub, small_disk: Path) -> None:
    bundle = small_disk / "bundle"
    gather(bundle, [model("town/large", B)])
    with pytest.raises(ResourceError, match=r"the dataset town/repeated: the disk \(or quota\) of the bundle is full"):
        gather(bundle, [dataset("town/repeated")])
    (small_disk / "filling").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 50_000))
    with pytest.raises(ResourceError, match=r"the model town/tiny.* is full: needs [\d,]+ bytes, and [\d,]+ are free"):
        gather(bundle, [model()])
    assert check_bundle(bundle, [model("town/large", B)], checksums=True) == []


def test_two_at_once_do_not_fill_one_bundle(hub: LocalHub, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "bundle").mkdir()
    with (tmp_path / "bundle" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match="another `iberlm prefetch` fills it"):
            gather(tmp_path / "bundle", [model()])


def cluster(**settings: Any) -> ClusterConfig:
    return ClusterConfig(name="far", scheduler="slurm", **settings)


def test_a_submission_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    needs = [model(), dataset(config="eu"), path_need(tmp_path / "none.bin", "annotate.identifier"), path_need(tmp_path / "*.jsonl", "data.paths[0]")]
    needs.append(Need(kind=PACKAGE, name="no-such-package", module="no_such_package", used_by="tracker"))
    command = prefetch_command("pretrain", [f"initial_model='town/tiny@{A}'", "tracker=wandb"], "")
    with pytest.raises(ConfigError) as caught:
        require(needs, cluster(), tmp_path / "run", command)
    text = str(caught.value)
    assert "the nodes of 'far' would not find 5 things" in text
    assert "initial_model: the model town/tiny@aaaaaaaaaaaa is neither in a bundle (cluster.bundle is not set) nor in the cache" in text
    assert f"annotate.identifier: there is no '{tmp_path}/none.bin'" in text
    assert "tracker: the package no-such-package is not installed; `pip install no-such-package`" in text
    assert f"""iberlm prefetch pretrain 'initial_model='"'"'town/tiny@{A}'"'"'' tracker=wandb --out BUNDLE""" in text
    assert "cluster.bundle=FOLDER" in text
    (tmp_path / "one.jsonl").write_text("{}")
    require([needs[3]], cluster(), tmp_path / "run", command)


def test_paths_on_this_machine_alone_are_refused_where_the_run_lies_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr("iberlm.launch.offline.bundle._OWN_DISKS", (str(own),))
    assert missing([path_need(own, "model_folder")], cluster(), shared / "run") == [
        f"model_folder: {own} lies on this machine's own disk, which other nodes do not see; copy it to a shared folder"
    ]
    assert missing([path_need(own, "model_folder")], cluster(), own / "run") == []


def test_without_a_bundle_the_cache_that_the_job_will_use_counts(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather(tmp_path / "bundle", [model(), dataset()])
    shared = tmp_path / "bundle" / "hub"
    (shared / "datasets" / "town___set").mkdir(parents=True)  # as the data sets library names what it prepared by itself
    needs = [model(), dataset()]
    monkeypatch.setenv("SHARED", str(shared))
    assert missing(needs, cluster(environment={"HF_HOME": "$SHARED"}), tmp_path) == []
    assert len(missing(needs, cluster(environment={"HF_HOME": str(tmp_path / "other")}), tmp_path)) == 2
    assert missing(needs, cluster(bundle=str(tmp_path / "bundle")), tmp_path) == []
    snapshot = shared / "hub/models--town--tiny/snapshots" / A
    assert local_folder(f"town/tiny@{A}", cluster(bundle=str(tmp_path / "bundle"))) == snapshot
    assert local_folder(f"town/tiny@{A}", cluster(environment={"HF_HOME": "$SHARED"})) == snapshot
    monkeypatch.setenv("HF_HOME", str(shared))
    assert local_folder(f"town/tiny@{A}", cluster()) == snapshot
    assert local_folder(str(tmp_path), cluster()) == tmp_path
    with pytest.raises(ConfigError, match=r"is not in the cache .*gather it with `iberlm prefetch`"):
        local_folder(f"town/tiny@{B}", cluster())
    with pytest.raises(ConfigError, match="'main' is not a commit; pin it"):
        local_folder("town/tiny@main", cluster())


def test_what_fetch_downloads_and_what_would_run_code_are_refused_on_nodes_without_internet(tmp_path: Path) -> None:
    sources = {
        "hub": SourceConfig(kind="huggingface", card="x", dataset="town/set", revision=C),
        "debian": SourceConfig(kind="debian", card="x", packages=["manpages-es", "./own.deb"], include=["*"]),
        "sample": SourceConfig(kind="sample", card="x"),
        "own": SourceConfig(kind="path", card="x", path=str(tmp_path)),
    }
    needs = fetch_needs(FetchConfig(corpus=CorpusConfig(sources=sources)))
    assert [(need.kind, need.name) for need in needs] == [
        (DOWNLOAD, "town/set"), (DOWNLOAD, "Debian package manpages-es"), (PATH, "./own.deb"), (PATH, str(tmp_path)),
    ]  # fmt: skip
    found = missing(needs, cluster(), tmp_path)
    assert len(found) == 3
    assert "corpus.sources.hub.dataset: town/set@cccccccccccc is downloaded by `iberlm fetch` itself; run that stage where there is internet" in found[0]
    assert len(missing(needs, cluster(compute_internet=True), tmp_path)) == 1


def test_needs_of_each_verb_are_those_of_its_settings(tmp_path: Path) -> None:
    from iberlm.cli.hydra_app import compose_settings
    from iberlm.cli.verbs import VERBS

    def found(verb: str, *overrides: str) -> list[tuple[str, str, str]]:
        config = compose_settings(VERBS[verb], [f"run_dir={tmp_path}/run", *overrides])
        return [(need.kind, need.name, need.used_by) for need in needs_of(VERBS[verb].recipe, config)]

    assert found("run", "pipeline=demo") == []  # the embedded sample and the run's own folders
    for verb in ("fetch", "curate", "train-tokenizer", "tokenize", "pretrain", "finetune", "evaluate", "report"):
        assert found(verb) == []
    assert found("curate", "annotate.identifier=/x/lid.bin", "decontaminate.evaluation=[iberlm,/x/items]", "quality.model=/x/q", "robots.snapshot=/x/r",
                 "select.removals=[/x/requests.jsonl]", "extract.html_engine=trafilatura", "raw=/x/raw") == [
        (PATH, "/x/raw", "raw"), (PACKAGE, "trafilatura", "extract.html_engine"), (PATH, "/x/lid.bin", "annotate.identifier"),
        (PACKAGE, "fasttext-wheel", "annotate.identifier"), (PATH, "/x/items", "decontaminate.evaluation"), (PATH, "/x/requests.jsonl", "select.removals"),
        (PATH, "/x/r", "robots.snapshot"), (PATH, "/x/q", "quality.model"),
    ]  # fmt: skip
    assert found("train-tokenizer", "tokenizer=extend", f"tokenizer.base='town/tiny@{A}'", "compare=[/x/other]", "parallel=/x/parallel") == [
        (TOKENIZER, "town/tiny", "tokenizer.base"), (PATH, "/x/other", "compare[0]"), (PATH, "/x/parallel", "parallel"),
    ]  # fmt: skip
    assert found("pretrain", f"initial_model='town/tiny@{A}'", "tracker=wandb", "precision=fp8", "objective.cross_entropy=liger", "strategy=zero2",
                 "replay={tokens: /x/old, share: 0.1}", "checkpoint.resume_from=/x/step", "monitor.hooks=['mine.probe:look']") == [
        (MODEL, "town/tiny", "initial_model"), (PATH, "/x/old", "replay.tokens"), (PATH, "/x/step", "checkpoint.resume_from"), (PACKAGE, "wandb", "tracker"),
        (PACKAGE, "liger-kernel", "objective.cross_entropy"), (PACKAGE, "torchao", "precision"), (PACKAGE, "mine.probe", "monitor.hooks"),
    ]  # fmt: skip
    assert found("finetune", "model_folder=/x/base", "data=path", "data.paths=[/x/chat.jsonl]", "data.card=iberlm_sample_instructions") == [
        (PATH, "/x/base", "model_folder"), (PATH, "/x/chat.jsonl", "data.paths[0]"),
    ]  # fmt: skip
    assert found("run", "pipeline=demo", "stages=[evaluate]", "evaluate.model_folder=/x/model") == [(PATH, "/x/model", "model_folder")]
    assert found("fetch", "corpus=debian_docs")[0][0] == DOWNLOAD
    licences = "+suite.licences={galcola: CC-BY-4.0, summarization_gl: CC-BY-4.0}"
    assert found("evaluate", "suite.tasks=[]", "+suite.upstream={gl: [galcola, summarization_gl], es: [wnli_es]}", licences, "validation=''") == [
        (REFUSED, "summarization_gl", "suite"), (DATASET, "proxectonos/galcola", "suite: galcola"),
        (DATASET, "proxectonos/summarization_gl", "suite: summarization_gl"), (DATASET, "PlanTL-GOB-ES/wnli-es", "suite: wnli_es"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"unknown task 'galcol'; did you mean 'galcola'"):
        found("evaluate", "+suite.upstream={gl: [galcol]}")
    with pytest.raises(ConfigError, match="'town/tiny@main': 'main' is not a commit"):
        found("pretrain", "initial_model='town/tiny@main'")


def test_a_suite_that_would_run_code_of_the_hub_is_refused_by_prefetch(tmp_path: Path) -> None:
    settings = ["suite.tasks=[]", "+suite.upstream={gl: [summarization_gl]}", "+suite.licences={summarization_gl: CC-BY-4.0}", "validation=''"]
    refused = "summarization_gl its metric 'rouge' is a program on the hub, which would be run; ask 'summarization_gl_iberlm' in its place"
    with pytest.raises(ConfigError, match=refused):
        prefetch("evaluate", settings, out=tmp_path / "bundle", wheels=False, loops=False, check=False)
    with pytest.raises(ConfigError, match="give the bundle's folder: --out FOLDER"):
        prefetch("evaluate", [], out=None, wheels=False, loops=False, check=False)
    with pytest.raises(ConfigError, match="there is no verb 'eval'; choose among fetch"):
        prefetch("eval", [], out=tmp_path, wheels=False, loops=False, check=False)
    with pytest.raises(ConfigError, match=r"is no bundle: it has no bundle.json; fill it with iberlm prefetch pretrain"):
        prefetch("pretrain", [f"initial_model='town/tiny@{A}'"], out=tmp_path / "bundle", wheels=False, loops=False, check=True)


def test_compiled_loops_lie_in_the_bundle_and_a_job_finds_them(tmp_path: Path) -> None:
    program = tmp_path / "loop.py"
    program.write_text("import numba, sys\nloop = numba.njit(cache=True)(lambda n: n + 1)\nloop(1)\nprint(sum(loop.stats.cache_hits.values()))\n")
    compile_loops(tmp_path / "bundle", [sys.executable, str(program)])
    assert list((tmp_path / "bundle" / "numba").rglob("*.nbc"))
    assert child(f"import runpy; runpy.run_path({str(program)!r})", tmp_path / "bundle", cwd=tmp_path) == "1"
    assert check_bundle(tmp_path / "bundle", [], checksums=True) == []  # a cache that jobs add to
    with pytest.raises(ResourceError, match=r"could not be compiled: .*no such thing"):
        compile_loops(tmp_path / "bundle", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])


def test_a_module_is_looked_for_where_the_job_will_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "town_hook.py").write_text("")
    plain = ClusterConfig(name="x", scheduler="slurm")
    assert importable("json.tool", plain)
    assert not importable("town_hook", plain)
    assert importable("town_hook", replace(plain, environment={"PYTHONPATH": f"/nowhere:{tmp_path}"}))
    # a job takes nothing from the shell that submits it
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not importable("town_hook", plain)
    assert importable("town_hook", replace(plain, modules=["python"]))
