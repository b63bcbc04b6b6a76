"""Keeping another model's tokenizer: every file and id as they are, measured, and refused where documents could not be told apart."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_extend import KINDS, write_base
from tokenizer_corpus import TEXTS
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.manifest import Manifest
from iberlm.core.token_store import open_shard
from iberlm.tokenizer import store, train
from iberlm.tokenizer.config import TokenizeConfig, TokenizerConfig, TrainTokenizerConfig
from iberlm.tokenizer.gates import GATES
from iberlm.tokenizer.keep import keep


def kept(base: Path, **settings: Any) -> TrainTokenizerConfig:
    return TrainTokenizerConfig(tokenizer=TokenizerConfig(algorithm="keep", base=str(base), vocabulary_size=0, **settings))


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_base(tmp_path_factory.mktemp("bases") / request.param, request.param)
    (folder / "vocab.json").write_text("{}", encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tools.jinja").write_text("{{ tools }}", encoding="utf-8")
    (folder / "tokenization_own.py").write_text("raise SystemExit('code of the folder was run')", encoding="utf-8")
    return folder


def changed(base: Path, folder: Path, settings: Mapping[str, Any] | None = None, tokenizer: Mapping[str, Any] | None = None) -> Path:
    """A copy of a base with other values in its two files."""
    folder.mkdir()
    for name, change in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        value = json.loads((base / name).read_text(encoding="utf-8")) | dict(change or {})
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def test_the_stage_copies_measures_and_judges_and_tokenize_gives_the_ids_of_the_base(base: Path, curated: Manifest, tmp_path: Path) -> None:
    manifest = train.run(kept(base), [curated], tmp_path / "kept")
    copies = {path.relative_to(manifest.folder / "tokenizer").as_posix(): path for path in (manifest.folder / "tokenizer").rglob("*") if path.is_file()}
    assert set(copies) == {
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model", "vocab.json"),
        "additional_chat_templates/tools.jinja",
    }
    for name, path in copies.items():
        assert path.read_bytes() == (base / name).read_bytes()
    metrics = manifest.metrics
    reference = Tokenizer.from_file(str(base / "tokenizer.json"))
    assert (metrics["algorithm"], metrics["kept"], metrics["vocabulary_size"]) == ("keep", str(base), reference.get_vocab_size())
    assert set(metrics["languages"]) == set(TEXTS)
    assert set(metrics["gates"]) == set(GATES)
    for name in ("bytes", "dead_pieces", "deterministic"):
        assert metrics["gates"][name]["passed"] is True, metrics["gates"][name]
    assert metrics["pieces"]["trained"] == 0  # none is ours to judge
    assert "words" not in metrics

    tokens = store.run(TokenizeConfig(), [curated, manifest], tmp_path / "tokens")
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    ends = [reference.token_to_id(settings[key]) for key in ("bos_token", "eos_token")]
    assert [tokens.metrics["boundary"][key] for key in ("bos", "eos")] == ends
    auto = AutoTokenizer.from_pretrained(str(manifest.folder / "tokenizer"))
    assert (auto.bos_token_id, auto.eos_token_id, len(auto)) == (*ends, tokens.metrics["vocabulary_size"])
    reference.encode_special_tokens = True
    shard = open_shard(tokens.folder / "validation/es-00000")
    for index in range(len(shard)):
        ids = shard.document(index)
        text = auto.decode(ids[1:-1])
        assert ids[1:-1].tolist() == reference.encode(text, add_special_tokens=False).ids
        assert ids[[0, -1]].tolist() == ends
        assert text.strip() in {"\n".join(TEXTS["es"].split("\n")[first : first + 3]) for first in range(4)}
    assert tokens.metrics["dtype"] == np.dtype(np.uint16).name


def test_the_folder_of_a_train_tokenizer_stage_is_a_base_too(bpe: Manifest, curated: Manifest, tmp_path: Path) -> None:
    manifest = train.run(kept(bpe.folder), [curated], tmp_path / "kept")
    mine, theirs = ({output.path: output.sha256 for output in stage.outputs if output.path.startswith("tokenizer/")} for stage in (manifest, bpe))
    assert mine == theirs
    assert manifest.metrics["parallel"]["tokens"] == bpe.metrics["parallel"]["tokens"]


def test_another_base_is_another_stage_and_the_same_base_is_not(bpe: Manifest, curated: Manifest, tmp_path: Path) -> None:
    base = changed(bpe.folder / "tokenizer", tmp_path / "base")
    first = train.run(kept(base), [curated], tmp_path / "out")
    assert train.run(kept(base), [curated], tmp_path / "out").finished == first.finished
    (base / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert train.run(kept(base), [curated], tmp_path / "out").key != first.key
    assert (tmp_path / "out/tokenizer/chat_template.jinja").read_text(encoding="utf-8") == "{{ messages }}"


def test_a_gate_that_fails_says_what_can_be_done_with_a_kept_tokenizer(bpe: Manifest, curated: Manifest, tmp_path: Path) -> None:
    config = kept(bpe.folder)
    config.gates.max_cost_ratio = 1.0
    verdict = train.run(config, [curated], tmp_path / "kept").metrics["gates"]["cost"]
    assert verdict["passed"] is False
    assert "tokenizer.parity" not in verdict["message"]
    assert "waived_gates=[cost]" in verdict["message"]
    assert "the same content takes" in verdict["message"]


def test_a_folder_without_tokenizer_json_or_without_settings_is_refused_with_what_to_write(tmp_path: Path, bpe: Manifest) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(ConfigError, match=r"no tokenizer.json in .*save_pretrained"):
        keep(tmp_path / "model", tmp_path / "out")
    bare = changed(bpe.folder / "tokenizer", tmp_path / "bare")
    (bare / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match=r'tokenizer_config.json: tokenizer.base: there is no such file.*write it, such as .*"bos_token": "<s>"'):
        keep(bare, tmp_path / "out")
    for text in ("{", "[1]"):
        (bare / "tokenizer_config.json").write_text(text, encoding="utf-8")
        with pytest.raises(CorruptError, match="copy or download it again"):
            keep(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bos_token": None}, r'has no bos_token; .* name it there, "bos_token": "TOKEN", a special token of tokenizer.json \(<unk>, <s>, </s>, <pad>'),
        ({"eos_token": ""}, "has no eos_token"),
        ({"eos_token": {"content": None}}, "has no eos_token"),
        ({"bos_token": "<begin>"}, "bos_token is '<begin>', which is no added token of tokenizer.json"),
        ({"bos_token": "</s>"}, "bos_token and eos_token are the same, '</s>'; .*resize-embeddings"),
        ({"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}}, "needs Python code from its own folder"),
    ],
)
def test_settings_that_name_no_two_ends_or_need_code_are_refused(settings: dict[str, Any], message: str, bpe: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        keep(changed(bpe.folder / "tokenizer", tmp_path / "base", settings), tmp_path / "out")


def test_ends_named_as_transformers_writes_them_are_found(bpe: Manifest, tmp_path: Path) -> None:
    base = changed(bpe.folder / "tokenizer", tmp_path / "base", {"bos_token": {"content": "<s>", "lstrip": False, "special": True}})
    assert keep(base, tmp_path / "out").vocabulary_size == bpe.metrics["vocabulary_size"]


def test_tokens_that_text_can_spell_and_ids_that_nobody_has_are_refused(bpe: Manifest, tmp_path: Path) -> None:
    spec = json.loads((bpe.folder / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    plain = [entry | {"special": entry["content"] != "</s>" and entry["special"]} for entry in spec["added_tokens"]]
    with pytest.raises(ConfigError, match=r"eos_token '</s>' is found in text that spells it; mark it \"special\": true"):
        keep(changed(bpe.folder / "tokenizer", tmp_path / "plain", tokenizer={"added_tokens": plain}), tmp_path / "out")
    size = bpe.metrics["vocabulary_size"]
    far = spec["model"] | {"vocab": spec["model"]["vocab"] | {"faraway": size + 2}}
    with pytest.raises(ConfigError, match=rf"no token has the id {size} \(nor 1 others\), and the largest id is {size + 2}"):
        keep(changed(bpe.folder / "tokenizer", tmp_path / "holes", tokenizer={"model": far}), tmp_path / "out")
    moved = [*spec["added_tokens"], spec["added_tokens"][0] | {"content": "<more>", "id": size + 9}]
    with pytest.raises(ConfigError, match=rf"'<more>' has the id {size + 9}, but loads as {size}"):
        keep(changed(bpe.folder / "tokenizer", tmp_path / "moved", tokenizer={"added_tokens": moved}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": ""}, r"tokenizer.base: '' with algorithm=keep"),
        ({"base": "x", "algorithm": "bpe"}, r"a base goes with algorithm=extend or keep, and only with them"),
        ({"base": "x", "vocabulary_size": 1_000}, r"tokenizer.vocabulary_size: 1000 with algorithm=keep"),
        ({"base": "x", "split": "space"}, r"tokenizer.split: 'space' with algorithm=keep"),
    ],
)
def test_settings_that_keep_would_not_follow_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenizerConfig(**({"algorithm": "keep", "vocabulary_size": 0} | settings))
