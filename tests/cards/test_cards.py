"""Data cards: what is refused, where the message points, and what `require` lets through."""

import hashlib
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from iberlm.cards import check_card, find_card, load_card, require
from iberlm.cards.command import new, show_list, validate
from iberlm.core.errors import CardError
from iberlm.core.resources import resource_dir

TODAY = date(2026, 11, 22)

Edit = Callable[[dict[str, Any]], None]


def valid_card(name: str = "town_notices") -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": name,
        "title": "Town notices",
        "description": "Notices that a handful of town halls published on their boards between 2020 and 2024, as plain text with a title.",
        "version": "1.0.0",
        "languages": [{"tag": "ca", "proportion": 0.5, "basis": "documents"}, {"tag": "ca-valencia", "proportion": 0.5, "basis": "documents"}],
        "registers": ["administrative"],
        "modality": "text",
        "source_type": "public_dataset",
        "licence": {
            "spdx": "CC-BY-4.0",
            "url": "https://creativecommons.org/licenses/by/4.0/",
            "evidence": {"kind": "url", "ref": "https://example.org/terms", "checked_on": date(2026, 11, 1)},
        },
        "tdm": {"status": "no_reservation"},
        "personal_data": {"present": "incidental", "special_categories": False, "legal_basis": "legitimate_interest"},
        "pii": {"status": "redacted"},
        "dates": {"collected_from": date(2020, 1, 1), "collected_to": date(2024, 12, 31)},
        "files": [{"path": "data/notices.jsonl", "sha256": "0" * 64, "bytes": 3}],
        "splits": [{"name": "train", "files": ["data/notices.jsonl"], "documents": 1}],
        "quality": {"known_issues": ["Tables became lines."]},
        "permitted_uses": ["pretrain", "redistribute"],
        "maintainer": {"name": "Maria", "email": "maria@example.org"},
        "takedown": {"contact": "remove@example.org", "sla_days": 7},
    }


def write_card(folder: Path, edit: Edit | None = None, name: str = "town_notices") -> Path:
    card = valid_card(name)
    if edit is not None:
        edit(card)
    path = folder / "data_cards" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(card, stream)
    return path


def line_of(path: Path, needle: str) -> int:
    return next(number for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if needle in line)


def messages(path: Path) -> list[str]:
    return [str(problem) for problem in check_card(path, today=TODAY)[1]]


def put(*steps_and_value: Any) -> Edit:
    *steps, value = steps_and_value

    def edit(card: dict[str, Any]) -> None:
        node: Any = card
        for step in steps[:-1]:
            node = node[step]
        if value is None:
            del node[steps[-1]]
        else:
            node[steps[-1]] = value

    return edit


def test_valid_card_loads_without_a_problem(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    assert messages(path) == []
    assert load_card(path, today=TODAY).languages[1].tag == "ca-valencia"


@pytest.mark.parametrize(
    ("edit", "field", "problem", "mend"),
    [
        (put("languages", 0, "tag", "val"), "languages[0].tag", "Vehes", "ca-valencia"),
        (put("languages", 0, "tag", "ca_valencia"), "languages[0].tag", "not the BCP 47 spelling", "write 'ca-valencia'"),
        (put("languages", 0, "tag", "eus"), "languages[0].tag", "not the BCP 47 spelling", "write 'eu'"),
        (put("languages", 0, "tag", "zz9"), "languages[0].tag", "not a BCP 47 tag", "es, ca, ca-valencia"),
        (put("languages", 0, "tag", "ca-valencia"), "languages[1].tag", "listed twice", "one entry"),
        (put("languages", 0, "proportion", 0.4), "languages", "sum to 0.900", "sum to 1"),
        (put("languages", 0, "basis", "bytes"), "languages", "different things", "one basis"),
        (put("licence", "spdx", "CC BY 4.0"), "licence.spdx", "not an SPDX licence", "did you mean CC-BY-4.0?"),
        (put("licence", "spdx", "MIT AND"), "licence.spdx", "not an SPDX expression", "CC-BY-4.0"),
        (put("licence", "spdx", "CC-BY4.0"), "licence.spdx", "not an SPDX licence", "did you mean CC-BY-4.0"),
        (put("licence", "spdx", "cc-by-4.0"), "licence.spdx", "not the SPDX spelling", "did you mean CC-BY-4.0?"),
        (put("licence", "spdx", "LicenseRef-Town"), "licence.spdx", "text of 'LicenseRef-Town' is nowhere", "LICENSES/LicenseRef-Town.txt"),
        (put("licence", "spdx", "CC-BY-ND-4.0"), "permitted_uses", "'pretrain' against CC-BY-ND-4.0", "remove"),
        (put("licence", "spdx", "CC-BY-NC-4.0"), "permitted_uses", "'redistribute' against CC-BY-NC-4.0", "remove"),
        (put("licence", "evidence", "checked_on", date(2027, 1, 1)), "licence.evidence.checked_on", "in the future", "checked"),
        (put("personal_data", "legal_basis", None), "personal_data.legal_basis", "is missing", "legal basis"),
        (put("personal_data", "special_categories", True), "personal_data.dpia", "is missing", "impact assessment"),
        (put("pii", "status", "raw"), "pii.status", "'raw' against 'pretrain'", "redact"),
        (put("source_type", "crawled"), "crawl", "is missing", "domains_file"),
        (put("source_type", "synthetic"), "synthetic", "is missing", "generators"),
        (put("files", None), "files", "is missing", "source"),
        (put("source", {"kind": "huggingface", "dataset": "a/b"}), "source", "stands beside", "one of the two"),
        (put("name", "other_name"), "name", "not the file name", "rename"),
        (put("dates", "collected_to", date(2019, 1, 1)), "dates.collected_to", "before collected_from", "swap"),
        (put("titel", "x"), "titel", "unknown key", "did you mean 'title'?"),
        (put("licence", "evidence", "kind", "phone"), "licence.evidence.kind", "'phone' is not a choice", "'url', 'file', 'email' or 'contract'"),
        (put("version", "1.0"), "version", "'1.0'", "semantic version"),
        (put("takedown", "sla_days", 90), "takedown.sla_days", "90", "1 to 30"),
        (put("tdm", None), "tdm", "is missing", "status"),
        (put("quality", "known_issues", []), "quality.known_issues", "at least 1", "no data set is without"),
    ],
)
def test_each_mistake_is_reported_with_field_problem_and_mend(tmp_path: Path, edit: Edit, field: str, problem: str, mend: str) -> None:
    path = write_card(tmp_path, edit)
    found = [line for line in messages(path) if f" {field} - " in line and problem in line]
    assert found, messages(path)
    assert found[0].startswith(f"{path}:")
    assert mend in found[0].split(" - ", 2)[2]


def test_problem_points_at_its_line(tmp_path: Path) -> None:
    path = write_card(tmp_path, put("languages", 1, "tag", "val"))
    assert messages(path)[0].startswith(f"{path}:{line_of(path, 'tag: val')} languages[1].tag - ")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    def edit(card: dict[str, Any]) -> None:
        del card["title"]
        card["modality"] = "sound"

    with pytest.raises(CardError) as caught:
        load_card(write_card(tmp_path, edit), today=TODAY)
    assert " title - is missing" in str(caught.value)
    assert "'sound' is not a choice" in str(caught.value)


def test_stale_licence_evidence_only_warns(tmp_path: Path) -> None:
    path = write_card(tmp_path, put("licence", "evidence", "checked_on", date(2024, 1, 1)))
    card, problems = check_card(path, today=TODAY)
    assert card is not None
    assert [problem.warning for problem in problems] == [True]
    assert load_card(path, today=TODAY).name == "town_notices"


def test_evidence_of_a_day_that_has_begun_elsewhere_is_not_in_the_future(tmp_path: Path) -> None:
    path = write_card(tmp_path, put("licence", "evidence", "checked_on", TODAY + timedelta(days=1)))
    assert check_card(path, today=TODAY)[1] == []
    path = write_card(tmp_path, put("licence", "evidence", "checked_on", TODAY + timedelta(days=2)))
    assert "in the future" in str(check_card(path, today=TODAY)[1][0])


def test_own_licence_with_its_text_is_accepted(tmp_path: Path) -> None:
    path = write_card(tmp_path, put("licence", "spdx", "LicenseRef-Town OR CC-BY-4.0"))
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "LICENSES" / "LicenseRef-Town.txt").write_text("Use it well.")
    assert messages(path) == []


def test_non_commercial_training_needs_the_prohibition_written_down(tmp_path: Path) -> None:
    def edit(card: dict[str, Any]) -> None:
        card["licence"]["spdx"] = "CC-BY-NC-4.0"
        card["permitted_uses"] = ["pretrain"]

    path = write_card(tmp_path, edit)
    assert "no word on commercial use" in messages(path)[0]

    def mended(card: dict[str, Any]) -> None:
        edit(card)
        card["prohibited_uses"] = ["commercial use"]

    assert messages(write_card(tmp_path, mended)) == []


def test_crawled_card_needs_its_list_of_domains(tmp_path: Path) -> None:
    def edit(card: dict[str, Any]) -> None:
        card["source_type"] = "crawled"
        card["crawl"] = {
            "crawlers": ["townbot"],
            "user_agent": "townbot/1",
            "behaviour": "one page a second",
            "from": date(2020, 1, 1),
            "to": date(2020, 2, 1),
            "domains_file": "domains.tsv",
        }

    path = write_card(tmp_path, edit)
    assert "'domains.tsv' does not exist" in messages(path)[0]
    (tmp_path / "domains.tsv").write_text("example.org\t3\n")
    assert messages(path) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "name: [\n",
        "name: a\nname: b\n",
        "a: &a [*a]\n",
        "\x00",
        "b: !!python/object:os.system {}\n",
        "a: 'x\n",
        "? [1, 2]\n: 3\n",
        "a: 2020-13-45\n",
    ],
)
def test_malformed_yaml_is_a_problem_not_a_crash(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert messages(path)


def test_aliases_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)))
    assert "unfold to too much" in messages(path)[0]


def test_missing_and_non_utf8_files_are_problems(tmp_path: Path) -> None:
    assert "cannot be read" in messages(tmp_path / "none.yaml")[0]
    (tmp_path / "latin.yaml").write_bytes("title: señal".encode("latin-1"))
    assert "not UTF-8" in messages(tmp_path / "latin.yaml")[0]


@pytest.fixture
def card_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with its own data_cards/, as a user has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IBERLM_CARDS", raising=False)
    return tmp_path


def test_users_card_is_found_and_required(card_folder: Path) -> None:
    path = write_card(card_folder)
    assert find_card("town_notices") == path
    assert require("town_notices", "pretrain", today=TODAY).licence.spdx == "CC-BY-4.0"


def test_unknown_card_lists_close_names(card_folder: Path) -> None:
    write_card(card_folder)
    with pytest.raises(CardError, match="did you mean town_notices"):
        find_card("town_notice")


def test_duplicate_card_name_is_refused(card_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    write_card(card_folder)
    other = tmp_path_factory.mktemp("other")
    write_card(other)
    monkeypatch.setenv("IBERLM_CARDS", str(other / "data_cards"))
    with pytest.raises(CardError, match="found twice"):
        find_card("town_notices")


def test_eval_only_card_is_refused_for_pretraining(card_folder: Path) -> None:
    write_card(card_folder, put("permitted_uses", ["eval"]))
    with pytest.raises(CardError, match="does not permit 'pretrain': its permitted uses are eval"):
        require("town_notices", "pretrain", today=TODAY)


def test_validate_compares_listed_files(card_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (card_folder / "data").mkdir()
    data = card_folder / "data" / "notices.jsonl"
    data.write_bytes(b"{}\n")
    path = write_card(card_folder)
    assert validate([path], today=TODAY) == 3
    assert "checksum mismatch" in capsys.readouterr().out
    path = write_card(card_folder, put("files", 0, "sha256", hashlib.sha256(b"{}\n").hexdigest()))
    assert validate([path], today=TODAY) == 0
    assert capsys.readouterr().out == "1 card valid\n"
    data.write_bytes(b"{}\n\n")
    assert validate([path], today=TODAY) == 3
    assert "has 4" in capsys.readouterr().out


def test_new_card_reports_its_blanks(card_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new("river_reports") == 0
    path = Path("data_cards/river_reports.yaml")
    capsys.readouterr()
    assert validate([path]) == 3
    printed = capsys.readouterr().out
    for field in ("title", "languages[0].tag", "licence.spdx", "tdm.status", "splits[0].documents", "maintainer.email"):
        assert f" {field} - is missing" in printed
    with pytest.raises(CardError, match="exists already"):
        new("river_reports")
    with pytest.raises(CardError, match="small letters"):
        new("../River")


def test_list_is_tab_separated_away_from_a_terminal(card_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_card(card_folder)
    assert show_list() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["name", "languages", "licence", "permitted uses", "version"]
    assert "town_notices\tca ca-valencia\tCC-BY-4.0\tpretrain redistribute\t1.0.0" in lines


def test_every_shipped_card_is_valid() -> None:
    for path in sorted(resource_dir("data_cards").glob("*.yaml")):
        assert [str(problem) for problem in check_card(path, files=True)[1] if not problem.warning] == []
