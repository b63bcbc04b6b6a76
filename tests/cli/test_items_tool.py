"""`iberlm items` where the data of tasks is not here."""

import shlex
from pathlib import Path

import pytest

from iberlm.cli.hydra_app import compose_settings
from iberlm.cli.items_tool import items
from iberlm.cli.prefetch_tool import needs_of
from iberlm.cli.verbs import VERBS
from iberlm.core.errors import DataError
from iberlm.core.needs import DATASET


def test_all_data_that_is_missing_is_told_at_once_with_the_command_that_gathers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "my data").mkdir()
    overrides = ["suite=ca_valencia", "suite.tasks=[reading,phrases_from_es,phrases_to_es,xnli]", f"data='{tmp_path / 'my data'}'"]
    with pytest.raises(DataError) as raised:
        items(tmp_path / "items", overrides, None)
    first, *told, command = str(raised.value).splitlines()
    assert first == "items: 3 of 4 tasks could not be written:"
    where = f"is not in {tmp_path / 'my data'}"
    assert [line.split(" at ")[0].removesuffix(f" {where}") for line in told] == [
        "  phrases_es-va, phrases_va-es: the data set gplsi/ES-VA_translation_test",
        "  xnli_va_iberlm: the data set gplsi/xnli_va",
    ]
    assert all(line.endswith(where) for line in told)
    line, _, then = command.partition("with: ")[2].rpartition("; ")
    assert then == "then give data=BUNDLE"
    words = shlex.split(line)
    assert words == ["iberlm", "prefetch", "evaluate", *overrides, "--out", "BUNDLE"]
    needed = needs_of("evaluate", compose_settings(VERBS["evaluate"], words[3:-2]))
    assert {need.name for need in needed if need.kind == DATASET} == {"gplsi/ES-VA_translation_test", "gplsi/xnli_va"}
    assert [path.name for path in (tmp_path / "items").iterdir()] == ["reading_ca_valencia.jsonl"]


def test_a_folder_for_bundles_is_where_missing_data_is_gathered(tmp_path: Path) -> None:
    overrides = ["suite=ca_valencia", "suite.tasks=[xnli]", f"cluster.bundle={tmp_path}"]
    with pytest.raises(DataError, match=f"is not in {tmp_path}\n.*--out {tmp_path}; then give data={tmp_path}$"):
        items(tmp_path / "items", overrides, None)
