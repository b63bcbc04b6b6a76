"""The command as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from iberlm.cli.completion import candidates
from iberlm.cli.tools import app
from iberlm.cli.verbs import VERBS
from iberlm.core.errors import ConfigError
from iberlm.evaluate.leaderboard.every_eval_ever import RELATIONSHIPS
from iberlm.evaluate.leaderboard.publish import FORMATS
from iberlm.evaluate.pairing import NEED_SAME
from iberlm.evaluate.review import items_file
from iberlm.evaluate.suite import families


def iberlm(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "iberlm", *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


def test_help_names_every_verb_and_tool() -> None:
    ended = iberlm("--help")
    assert ended.returncode == 0
    for name in [*VERBS, "cards", "completion"]:
        assert f"  {name} " in ended.stdout
    assert iberlm().stdout == ended.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_short_and_lists_groups_with_their_choices(verb: str) -> None:
    ended = iberlm(verb, "--help")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"iberlm {verb}: ")
    assert len(lines) <= 90
    if verb == "pretrain":
        assert any(line.strip().startswith("strategy=single") and "zero2" in line for line in lines)


def test_help_and_completeness_need_no_torch() -> None:
    code = (
        "import sys, iberlm.cli.main, iberlm.cli.pipeline, iberlm.cli.hydra_app\n"
        "from iberlm.train import pretrain; from iberlm.finetune import finetune; from iberlm.evaluate import evaluate; from iberlm.report import report\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'trl', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["curate", "select.min_wrods=3"], "select.min_wrods: unknown key; 'select' has: languages, redact"),
        (["curate", "select.smaples=3"], "did you mean 'select.samples'?"),
        (["curate", "cluster.wrokers=2"], "did you mean 'cluster.workers'? 'cluster' has: name, scheduler, workers, processes"),
        (["curate", "filters.es.min_wrods=3"], "did you mean 'filters.es.min_words'?"),
        (["pretrain", "stpes=3"], "did you mean 'steps'?"),
        (["run", "pretrain.stpes=3"], "did you mean 'pretrain.steps'?"),
        (["pretrain", "model=huge"], "model=huge: there is no such recipe. Choose among alia_40b, llama_125m"),
        (["run", "pipeline=dmeo"], "did you mean demo?"),
        (["pretrain", "strategy.name=horovod"], "strategy.name: unknown value 'horovod'; choose among single, ddp, fsdp2, hsdp, zero1, zero2, zero3"),
        (["pretrain", "steps=many"], "steps: Value 'many' of type 'str' could not be converted to Integer"),
        (["curate", "select.languages=[val]"], "for Valencian write 'ca-valencia'"),
        (["curate", "select={"], "'select={' is no override"),
        (["fetch", "corpus=path"], "corpus.sources.local.card: must be given"),
        (["tokenise"], "did you mean 'tokenize'?"),
    ],
)
def test_a_mistake_gives_one_message_that_names_the_key_and_the_choices(arguments: list[str], told: str) -> None:
    ended = iberlm(*arguments)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert ended.stdout == ""
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_cfg_job_prints_what_would_be_used() -> None:
    ended = iberlm("run", "pipeline=demo", "pretrain.steps=7", "--cfg", "job", "--resolve")
    settings = yaml.safe_load(ended.stdout)
    assert settings["pretrain"]["steps"] == 7
    assert settings["tokenize"]["out"] == "runs/demo/tokenize"


def test_recipes_of_ones_own_are_found_with_config_dir(tmp_path: Path) -> None:
    (tmp_path / "mine" / "filters").mkdir(parents=True)
    (tmp_path / "mine" / "filters" / "strict.yaml").write_text(
        "# mine\n" + "".join(f"{tag}: {{min_words: 999}}\n" for tag in ("es", "ca", "ca-valencia", "eu", "gl"))
    )
    ended = iberlm("curate", "--config-dir", str(tmp_path / "mine"), "filters=strict", "--cfg", "job")
    assert yaml.safe_load(ended.stdout)["filters"]["gl"]["min_words"] == 999


def test_overrides_and_options_may_be_mixed() -> None:
    ended = iberlm("curate", "run_dir=x", "--cfg", "job", "select.samples=9", "--resolve")
    settings = yaml.safe_load(ended.stdout)
    assert (settings["select"]["samples"], settings["out"]) == (9, "x/curate")
    assert "one of" in iberlm("curate", "--cfg", "job", "--info").stderr


def test_a_folder_is_given_by_its_short_name_though_a_group_is_called_so() -> None:
    for verb, name in (("evaluate", "model"), ("finetune", "model"), ("tokenize", "tokenizer"), ("pretrain", "tokenizer")):
        ended = iberlm(verb, f"{name}=/some/folder", "--cfg", "job")
        assert yaml.safe_load(ended.stdout)[f"{name}_folder"] == "/some/folder", ended.stderr
    assert yaml.safe_load(iberlm("pretrain", "model=llama_125m", "--cfg", "job").stdout)["model"]["name"] == "llama_125m"


def test_dry_run_prints_every_stage_and_touches_nothing(tmp_path: Path) -> None:
    ended = iberlm("run", "pipeline=demo", "dry_run=true", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "fetch: would run in runs/demo/fetch\n" in ended.stderr
    for stage in ("curate", "train_tokenizer", "tokenize", "pretrain", "evaluate", "finetune", "evaluate_finetuned", "report"):
        assert f"{stage}: would run in runs/demo/{stage}, unless what it reads comes out the same" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_gives_each_job_a_folder(tmp_path: Path) -> None:
    assert iberlm("fetch", cwd=tmp_path).returncode == 0
    ended = iberlm("curate", "--multirun", "select.samples=1,2", "select.min_validation_documents=1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    folders = sorted(path.name for path in (tmp_path / "runs/default/curate_sweep").iterdir())
    assert folders == ["select.min_validation_documents=1,select.samples=1", "select.min_validation_documents=1,select.samples=2"]
    assert ended.stderr.count("annotate: start") == 1
    assert iberlm("curate", cwd=tmp_path).returncode == 0


def test_a_stage_without_its_input_says_which_one_to_run() -> None:
    ended = iberlm("tokenize", "run_dir=/nonexistent")
    assert ended.returncode == 4
    assert "/nonexistent/curate: no manifest.json" in ended.stderr


def test_cards_are_validated_and_listed(tmp_path: Path) -> None:
    assert iberlm("cards", "validate").returncode == 0
    assert "iberlm_sample\tes ca ca-valencia eu gl\tCC0-1.0" in iberlm("cards", "list").stdout
    assert iberlm("cards", "new", "my_corpus", cwd=tmp_path).returncode == 0
    ended = iberlm("cards", "validate", "data_cards/my_corpus.yaml", cwd=tmp_path)
    assert ended.returncode == 3
    assert "data_cards/my_corpus.yaml:" in ended.stdout
    assert iberlm("cards", "validate", "--nonsense").returncode == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("iberlm to", ["tokenize"]),
        ("iberlm curate filt", ["filters.", "filters="]),
        ("iberlm pretrain model=nan", ["model=nano"]),
        ("iberlm pretrain optimizer.learn", ["optimizer.learning_rate="]),
        ("iberlm pretrain strategy=z", ["strategy=zero1", "strategy=zero2", "strategy=zero3"]),
        ("iberlm cards ", ["validate", "new", "list"]),
        ("iberlm results l", ["list"]),
        ("iberlm results list --", ["--model"]),
        ("iberlm results list ", []),
        ("iberlm completion z", ["zsh"]),
        ("iberlm compare a b --a", ["--across"]),
        ("iberlm compare a b --language ca", ["ca", "ca-valencia"]),
        ("iberlm compare --store ", []),
        ("iberlm leaderboard STORE --suite ib", ["iberian", "iberobench"]),
        ("iberlm leaderboard STORE --suite=ibero", ["--suite=iberobench"]),
        ("iberlm leaderboard STORE --no-items --so", ["--source-url"]),
        ("iberlm watch --e", ["--every"]),
        ("iberlm watch r", []),
        ("iberlm watch --every 5 --once runs/x suite=q", ["suite=quick"]),
        ("iberlm items --out items suite.ta", ["suite.tasks="]),
        ("iberlm items suite=ibero", ["suite=iberobench"]),
        ("iberlm plan pre", ["pretrain"]),
        ("iberlm prefetch evaluate suite=q", ["suite=quick"]),
        ("iberlm review-items commonsense_ca", ["commonsense_ca_valencia"]),
        ("iberlm evaluate suite.tasks=[mini", ["suite.tasks=[minimal_pairs"]),
        ("iberlm evaluate suite.tasks=[reading", ["suite.tasks=[reading,", "suite.tasks=[reading]"]),
        ("iberlm evaluate suite.tasks=[reading,rea", []),
        ("iberlm evaluate suite.tasks=[reading]", []),
        ("iberlm evaluate suite.tasks=read", []),
        ("iberlm evaluate suite.tasks.x=", []),
        ("iberlm evaluate backend=", []),
        ("iberlm evaluate suite=quick backend=k", []),
        ("iberlm evaluate backend.ki", ["backend.kind="]),
        ("iberlm run evaluate.suite=", []),
        ("iberlm evaluate 'suite.tasks=[reading, mini", ["suite.tasks=[reading, minimal_pairs"]),
        ("iberlm evaluate 'suite.tasks=[reading, copa]' suite=q", ["suite=quick"]),
        ("iberlm evaluate --cfg job suite=q", ["suite=quick"]),
        ("iberlm evaluate suite.languages=[ca,", [f"suite.languages=[ca,{tag}" for tag in ("es", "ca-valencia", "eu", "gl")]),
        ("iberlm watch runs/x +suite.upstream.eu=[belebele", ["+suite.upstream.eu=[belebele_eus_Latn"]),
        ("iberlm evaluate '+suite.upstream={gl: [xnli_gl], eu: [belebele", ["+suite.upstream={gl: [xnli_gl], eu: [belebele_eus_Latn"]),
        ("iberlm run evaluate.suite.tasks=[minim", ["evaluate.suite.tasks=[minimal_pairs"]),
    ],
)
def test_completion_offers_verbs_groups_choices_and_keys(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_completion_offers_what_the_tools_take() -> None:
    assert candidates("iberlm leaderboard STORE --format ") == list(FORMATS)
    assert candidates("iberlm leaderboard STORE --relationship ") == list(RELATIONSHIPS)
    assert candidates("iberlm compare a b --across ") == list(NEED_SAME)
    assert candidates("iberlm evaluate suite.tasks=") == [f"suite.tasks=[{name}" for name in families()]
    reviewed = candidates("iberlm review-items ")
    assert len(reviewed) > 10
    assert all(items_file(task).is_file() for task in reviewed)
    with pytest.raises(ConfigError) as refused:
        items_file("none")
    assert sorted(str(refused.value).partition("choose among ")[2].split(", ")) == sorted(reviewed)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for tool in ("compare", "leaderboard", "watch", "items", "review-items"):
        options = [name for option in commands[tool].params for name in option.opts if name.startswith("--")]
        assert options
        assert candidates(f"iberlm {tool} --") == options


@pytest.mark.parametrize("line", ["iberlm evaluate suite.tasks=[read", "iberlm items suite=q", "iberlm compare --", "iberlm review-items r", "iberlm results "])
def test_completion_imports_nothing_heavy(line: str) -> None:
    code = (
        "import sys; from iberlm.cli.completion import candidates\n"
        f"assert candidates({line!r})\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("typed", "expected"), [("pretrain strategy=f", "strategy=fsdp2"), ("items suite.tasks=[copa,minim", "suite.tasks=[copa,minimal_pairs")]
)
def test_completion_works_in_a_real_bash(typed: str, expected: str) -> None:
    script = f"""
export PATH={Path(sys.executable).parent}:$PATH
eval "$({sys.executable} -m iberlm completion bash)"
COMP_LINE="iberlm {typed}"; COMP_POINT=${{#COMP_LINE}}; _iberlm_complete; echo "${{COMPREPLY[@]}}"
"""
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert ended.stdout.strip() == expected
