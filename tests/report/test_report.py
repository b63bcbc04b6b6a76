"""The report as text: it is whole with everything and with nothing, says what is missing, and shows hostile text without harm."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_run import ISSUE, LONG_WORD, SECTIONS, STAGES, Settings, make_run, stage
from report_run import REASONS as REASONS_OF_RUN

from iberlm.core.errors import ConfigError
from iberlm.core.manifest import read_manifest
from iberlm.core.stage import Record
from iberlm.report import report
from iberlm.report.config import ReportConfig
from iberlm.report.finetuning_section import before_after
from iberlm.report.reasons import KINDS, REASONS, VERDICTS
from iberlm.report.run_folder import OPTIONAL
from iberlm.report.run_folder import STAGES as NAMES
from iberlm.report.text_sections import without_places
from iberlm.report.wording import clean, duration, energy, line, listed, ordered, percent, short_count, size, tag

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements (tag, attributes) and the text of a page; fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(run: Path) -> str:
    return (run / "report" / report.REPORT).read_text(encoding="utf-8")


def test_complete_run_has_every_section_and_number(whole_run: Path) -> None:
    page = Page(read(whole_run))
    assert [attributes["id"] for attributes in page.of("section")] == list(SECTIONS)
    assert "190 documents kept of 322 extracted" in page.text
    assert "3,412,224" in page.text
    assert "not run" not in page.text.replace("has not run, so", "")
    for said in ("below the baseline", "above the baseline", "constant prediction: always choice 0", "estimated: CPU seconds"):
        assert said in page.text
    # scores with intervals, the mean of a language, the paired verdict, a pattern of Valencian, the variety that is kept to
    for said in (
        "62.0 [48.6, 75.4]",
        "67.0 [53.6, 80.4]",
        "12.5 [4.0, 21.0]",
        "No difference can be seen on eu with 120 items.",
        "este aquest",
        "30.3 (40 of 132)",
    ):
        assert said in page.text
    assert "too few to call one better: reading in Galician." in page.text
    assert "In Galician the model is above the unigram baseline" in page.text


def test_known_issues_and_missing_review_of_synthetic_data_are_visible(whole_run: Path) -> None:
    page = Page(read(whole_run))
    assert ISSUE in page.text
    assert "synthetic not human-reviewed" in page.text
    assert "is synthetic, not human-reviewed: results on it show that the line works" in page.text
    assert "card_elsewhere" in page.text
    assert "only the licence that the run recorded is known" in page.text


def test_empty_run_names_every_stage_that_has_not_run(empty_run: Path) -> None:
    page = Page(read(empty_run))
    assert len(page.of("section")) == len(SECTIONS)
    assert page.of("svg") == []
    for name in ("Fetch", "Select", "Train tokenizer", "Tokenize", "Pretrain", "Evaluate", "Fine-tune", "Evaluate fine-tuned"):
        assert f"The stage “{name}” has not run" in page.text


@pytest.mark.parametrize("present", list(STAGES))
def test_any_stage_may_be_the_only_one(present: str, tmp_path: Path, cards: Path) -> None:
    kind, place, write = STAGES[present]
    report.run(ReportConfig(run_dir=str(tmp_path)), [stage(kind, tmp_path / place, write)], tmp_path / "report")
    text = Page(read(tmp_path)).text
    assert "This run is not complete" in text
    assert f"Not run: {listed(name for role, name in NAMES.items() if role != present and role not in OPTIONAL)}." in text


def test_stages_that_others_are_compared_with_may_be_missing(tmp_path: Path, cards: Path) -> None:
    manifests = [stage(kind, tmp_path / place, write) for name, (kind, place, write) in STAGES.items() if name in ("extract", "pretrain", "evaluate_finetuned")]
    report.run(ReportConfig(run_dir=str(tmp_path)), manifests, tmp_path / "report")
    text = Page(read(tmp_path)).text
    assert "no comparison" in text
    assert "67.0 [53.6, 80.4]" in text
    assert "The stage “Evaluate” has not run" in text


def test_missing_and_broken_files_become_sentences(tmp_path: Path, cards: Path) -> None:
    manifests = make_run(tmp_path)
    for name in ("pretrain/metrics.jsonl", "pretrain/generations.json", "finetune/metrics.jsonl", "fetch/files.jsonl"):
        (tmp_path / name).unlink()
    (tmp_path / "curate/samples.json").write_bytes(b"{\xff not json")
    (tmp_path / "evaluate/table.json").write_text('["a", {"b": NaN}]')
    (tmp_path / "finetune/samples.json").write_text('{"not": "a list"}')
    (tmp_path / "curate/documents/train.es.parquet").write_bytes(b"no parquet")
    report.run(ReportConfig(run_dir=str(tmp_path)), manifests, tmp_path / "report")
    text = Page(read(tmp_path)).text
    assert "The stage “Pretrain” has run, but its file metrics.jsonl is missing." in text
    assert "The stage “Pretrain” has run, but its file generations.json is missing." in text
    assert "The file samples.json of the stage “Select” cannot be read." in text
    assert "The file samples.json has no samples." in text


ODD: dict[str, Any] = {
    "validation": 3,
    "tokens": "many",
    "languages": [1],
    "parameters": None,
    "redacted": {"es": 4},
    "strategy": "ddp",
    "normalised": [1],
    "reserved": {"es": 3, "gl": {"robots": "some"}},
    "licences": {"es": ["MIT"], "gl": {"MIT": "x"}},
    "characters_kept": None,
    "snapshot": "old",
    "verdicts": {"es": 3, "gl": {"allowed": "yes"}},
    "refused_by": ["GPTBot"],
    "suites": {"a": 1},
    "documents": {"es": 4},
    "tasks_without_data": 3,
    "documents_by_tenth_of_score": {"es": [1, "x"], "gl": 3, "eu": []},
    "repeated_paragraphs": 4,
    "clusters": "few",
    "mixed_documents": "?",
    "gates": {"bytes": 3, "cost": {"passed": "yes", "message": 4}, "dead_pieces": {"passed": False}},
    "parallel": {"tokens": {"es": "many", "gl": 4, "eu": 0}, "languages": 3, "gini": "even", "tokens_per_word": [1]},
    "parity": {"rounds": [3, {"weights": "all", "gini": None}], "chosen": "first"},
    "compared": {"other": 3, "another": {"parallel": {"tokens": {"gl": 5}}, "probes": {"digits": 3}}},
    "pieces": {"trained": 0, "unused": 4, "glitch": "none", "unused_examples": [3, None]},
    "probes": {"digits": 1, "code": {"bytes_per_token": "x"}},
    "weights": [0.5],
    "words": 3,
    "extension": {"saving": 4},
}


@pytest.mark.parametrize("metrics", [{}, ODD])
def test_odd_metrics_never_stop_the_report(metrics: dict[str, Any], tmp_path: Path) -> None:
    manifests = [stage(kind, tmp_path / place, lambda _, record: record.metrics.update(metrics)) for kind, place, _ in STAGES.values()]
    manifests.append(stage("distil", tmp_path / "distil", lambda *_: None))
    report.run(ReportConfig(run_dir=str(tmp_path)), manifests, tmp_path / "report")
    assert "Stages that this report does not know: distil." in Page(read(tmp_path)).text


def test_every_reason_is_shown_in_words_with_its_meaning(whole_run: Path) -> None:
    text = Page(read(whole_run)).text
    for reason in REASONS_OF_RUN:
        name, meaning = REASONS.get(reason, (reason.replace("_", " "), ""))
        assert name.capitalize() in text
        assert meaning in text
    assert "A rule of tomorrow" in text
    assert "Dropped: a rule of tomorrow 1" in text
    assert "Dropped: too short 1 Too few words to be a document. doc-1" in text
    assert "Kept 2 of 40 " in text
    assert "Other languages 12 0 0 % 12" in text


def test_words_are_for_what_curation_counts() -> None:
    """A rule that is new needs none: it is spelled from its name."""
    from iberlm.curate import pii, robots
    from iberlm.curate.rules import RULES
    from iberlm.curate.selection import choose, decide

    own = {decide.REMOVED, decide.RESERVED, decide.ROBOTS, decide.LANGUAGE, decide.CONTAMINATED, decide.LITTLE_LEFT}
    assert set(REASONS) <= {rule.__name__ for rule in RULES} | own | {choose.DUPLICATE, choose.NEAR_DUPLICATE, choose.URL_DUPLICATE}
    assert len({name for name, _ in REASONS.values()}) == len(REASONS)
    assert set(KINDS) == set(pii.KINDS)
    assert tuple(VERDICTS) == robots.VERDICTS


def test_what_did_not_become_a_document_is_told_apart_from_what_was_dropped(whole_run: Path) -> None:
    text = Page(read(whole_run)).text
    assert "Content type passed over: in order, but no document 30 9.9 %" in text
    assert "Not utf8 in quarantine: damaged, or not as its format is 2 0.7 %" in text
    assert "Normalised on the way, by number of documents: punt volat in 41 and mojibake in 3." in text


def test_languages_are_shown_as_claimed_and_as_identified(whole_run: Path) -> None:
    text = Page(read(whole_run)).text
    assert "Spanish 53 52 −1" in text
    assert "English 7 12 +5" in text
    assert "17 documents (6.2 %) have paragraphs that are surely in another language than the whole." in text


def test_rights_show_what_is_reserved_and_its_share(whole_run: Path) -> None:
    text = Page(read(whole_run)).text
    assert "Spanish 2 3,000 1 1,000 5.0 %" in text
    assert "5 documents were left out at somebody's request or by a block list." in text
    assert "Spanish 30 3 12 1 5 1 5.8 %" in text
    assert "everyone (*) 9" in text
    assert "training, by a Content-Signal or Content-Usage line 4" in text
    assert "And 6 more agents." in text
    assert "the answers of 1,540 hosts, fetched 2025-01-02 to 2025-01-31." in text
    assert "Apache-2.0 185 39 38 37 36 35" in text
    assert "E-mail address tag 15 3 3 3 3 3" in text
    assert "IBAN invented value 5 1 1 1 1 1" in text
    assert "New kind – 5 1 1 1 1 1" in text
    assert "Left as they are, by the settings of this run: Position." in text


def test_repeats_show_duplicates_and_items_of_evaluations(whole_run: Path) -> None:
    text = Page(read(whole_run)).text
    for told in ("Same text as another 5 (1.8 %)", "Nearly the text of another 17 (6.2 %)", "Address of another 8 (2.9 %)", "120 places, 9,321 characters"):
        assert told in text
    assert "iberlm 380 300 6 2.0 %" in text
    assert "Galician 54 4 7.4 %" in text
    assert "Such documents are dropped." in text
    assert "because their data are not on the machine: xstorycloze_eu." in text


def test_stages_that_need_not_run_are_not_missed_but_their_absence_is_said(tmp_path: Path, cards: Path) -> None:
    manifests = [stage(kind, tmp_path / place, write) for name, (kind, place, write) in STAGES.items() if name not in OPTIONAL]
    report.run(ReportConfig(run_dir=str(tmp_path)), manifests, tmp_path / "report")
    text = Page(read(tmp_path)).text
    assert "not complete" not in text
    assert "No snapshot of robots files was applied" in text
    assert "No evaluation's items were looked for" in text
    assert "Quality scores" not in text


def test_a_stage_that_the_selection_did_not_read_is_not_shown(tmp_path: Path, cards: Path) -> None:
    """As when a run is selected again without the snapshot: the folder of the verdicts stays."""
    manifests = [stage(kind, tmp_path / place, write) for kind, place, write in STAGES.values()]
    report.run(ReportConfig(run_dir=str(tmp_path)), manifests, tmp_path / "report")
    text = Page(read(tmp_path)).text
    assert "No snapshot of robots files was applied" in text
    assert "Verdicts of the robots files" not in text


def test_reservations_that_are_not_honoured_are_said(tmp_path: Path, cards: Path) -> None:
    write = STAGES["select"][2]
    report.run(ReportConfig(run_dir=str(tmp_path)), [stage("select", tmp_path / "curate", write, Settings(honour_reservations=False))], tmp_path / "report")
    assert "Reservations were not honoured in this run" in Page(read(tmp_path)).text
    other = tmp_path / "other"
    report.run(ReportConfig(run_dir=str(other)), [stage("select", other / "curate", lambda out, record: record.counts.keep("es", 2))], other / "report")
    text = Page(read(other)).text
    assert "No document was left out because its page or its site reserves its use." in text
    assert "No personal data was found and replaced" in text


def test_tokenizer_shows_gates_costs_and_peers(whole_run: Path) -> None:
    text = Page(read(whole_run)).text
    assert "The tokenizer failed a gate: few pieces are dead." in text
    assert "Every byte can be written passed Every byte has an id" in text
    assert "Few pieces are dead failed 602 of 7,500 pieces are dead" in text
    assert "Training repeats exactly not measured It was trained only once" in text
    assert "Gate of tomorrow passed All is well" in text
    assert "Pretraining refuses a tokenizer with a gate that failed or was not measured" in text
    assert "Galician 2.020 3.400 50.0 % 1.060 20.0 %" in text
    assert "this tokenizer 1.40 1.50 1.60 1.70 1.80 1.90 1.060 0.0116" in text
    assert "a tokenizer with quite a long name in a folder 2.30 2.40" in text
    assert "Measured on 30 lines that come with IberLM." in text
    assert "are of Spanish, Catalan, Valencian, Basque and Galician." in text
    assert "round 1, chosen 20.0 % 20.0 % 20.0 % 30.0 % 20.0 % 0.0116" in text
    assert "With the mixture as given the Gini coefficient of the cost is 0.0301; after 1 round of the search it is 0.0116." in text
    assert "this tokenizer 1.00 1.67 1.25 2.50 1.50" in text
    assert "600, 590 of them parts of others" in text
    assert "602 (8.0 %)" in text
    assert "Hardly ever used, for example: “␣fiche”, “␀␤”" in text


def test_tokenizer_of_an_earlier_version_is_shown_as_it_was(tmp_path: Path, cards: Path) -> None:
    def write(out: Path, record: Record) -> None:
        record.metrics = {"languages": {"es": {"tokens_per_word": 1.5, "bytes_per_token": 4.2, "documents": 9}}, "vocabulary_size": 8000}

    report.run(ReportConfig(run_dir=str(tmp_path)), [stage("train_tokenizer", tmp_path / "train_tokenizer", write)], tmp_path / "report")
    text = Page(read(tmp_path)).text
    assert "Tokens a word and bytes a token Language Tokens a word Bytes a token Spanish 1.500 4.200" in text
    for said in ("Gates", "same content", "Health of the vocabulary", "failed a gate"):
        assert said not in text


def test_hostile_text_is_escaped_and_control_characters_are_shown(whole_run: Path) -> None:
    html = read(whole_run)
    page = Page(html)
    assert page.of("script") == []
    assert page.of("img") == []
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "\x00" not in html
    assert "\x07" not in html
    assert "␀␇\ufffd" in html
    assert LONG_WORD in html
    assert "document.title='owned'" in page.text
    assert not [attributes for attributes in page.of("a") if not re.match(r"#|https?://", attributes["href"] or "")]


def test_text_carries_its_language_and_finds_its_own_direction(whole_run: Path) -> None:
    texts = [attributes for attributes in Page(read(whole_run)).of("div") if "text" in (attributes.get("class") or "").split()]
    assert {"es", "ca", "ca-valencia", "eu", "gl"} <= {attributes["lang"] for attributes in texts}
    assert all(attributes["dir"] == "auto" for attributes in texts)
    assert all(re.fullmatch(r"[a-z-]*", attributes["lang"] or "") for attributes in texts)


def test_nothing_in_the_file_points_outside(whole_run: Path) -> None:
    html = read(whole_run)
    page = Page(html)
    assert not [
        attributes for name, attributes in page.elements if name != "a" and re.match("(https?:)?//", attributes.get("href") or attributes.get("src") or "")
    ]
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert any("default-src 'none'" in (attributes.get("content") or "") for attributes in page.of("meta"))


def test_ids_are_unique_and_references_have_a_target(whole_run: Path) -> None:
    html = read(whole_run)
    ids = [attributes["id"] for _, attributes in Page(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([\w.-]+)', html)) <= set(ids)


def test_tables_have_heads_with_scope_and_charts_say_what_they_show(whole_run: Path) -> None:
    page = Page(read(whole_run))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.of("th"))
    assert all(attributes["role"] == "img" and len(attributes["aria-label"] or "") > 30 for attributes in page.of("svg"))
    assert len(page.of("svg")) == 2 * len([1 for attributes in page.of("figure") if attributes["class"] == "chart"]) >= 14


def test_same_numbers_give_the_same_charts(whole_run: Path, tmp_path: Path, cards: Path) -> None:
    manifests = [read_manifest(whole_run / place) for place in ("tokenize", "pretrain")]
    report.run(ReportConfig(run_dir=str(whole_run), title="Another title"), manifests, tmp_path / "report")
    pattern = re.compile(r"<svg(?!.{0,200}of wall and CPU time).*?</svg>", re.DOTALL)
    charts = pattern.findall(read(tmp_path))
    assert len(charts) == 12
    assert set(charts) <= set(pattern.findall(read(whole_run)))


def test_report_is_made_again_only_when_something_changed(whole_run: Path, cards: Path) -> None:
    config = ReportConfig(run_dir=str(whole_run), title=read_manifest(whole_run / "report").config["title"])
    manifests = [read_manifest(whole_run / place) for _, place, _ in STAGES.values()]
    before = read_manifest(whole_run / "report").key
    assert report.run(config, manifests, whole_run / "report").key == before
    with pytest.raises(Exception, match="would run"):
        report.run(ReportConfig(run_dir=str(whole_run), title=config.title, dry_run=True), manifests[:-1], whole_run / "report")


def test_configuration_does_not_tell_the_users_folders(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    manifest = stage("pretrain", run / "pretrain", lambda *_: None, Settings(name=str(run / "tokenize")))
    report.run(ReportConfig(run_dir=str(run)), [manifest], run / "report")
    html = read(run)
    assert str(tmp_path) not in html
    assert "RUN/tokenize" in html
    assert without_places({"a": [str(Path.home() / "data"), 3]}, str(run)) == {"a": ["~/data", 3]}


def test_folders_of_a_run_hold_all_its_manifests(whole_run: Path) -> None:
    verbs = (
        "fetch",
        "extract",
        "annotate",
        "dedup",
        "decontaminate",
        "robots",
        "quality",
        "curate",
        "train_tokenizer",
        "tokenize",
        "pretrain",
        "evaluate",
        "finetune",
        "evaluate_finetuned",
    )
    config = ReportConfig(**{name: str(whole_run / name) for name in verbs})
    assert [read_manifest(folder).stage for folder in config.folders()] == [kind for kind, _, _ in STAGES.values()]
    assert ReportConfig(pretrain="somewhere").folders() == [Path("somewhere")]


def test_empty_title_is_refused() -> None:
    with pytest.raises(ConfigError, match="title"):
        ReportConfig(title="  ")


def test_words_for_numbers() -> None:
    assert [duration(value) for value in (0.04, 59.9, 192, 7500, None, float("nan"))] == ["0.0 s", "59.9 s", "3 min 12 s", "2 h 05 min", "–", "–"]
    assert [size(value) for value in (0, 1023, 1024, 150 * 1024, 3 << 30)] == ["0 B", "1023 B", "1.0 KiB", "150 KiB", "3.0 GiB"]
    assert [short_count(value) for value in (950, 75_500, 3_412_224, 7e9, "x")] == ["950", "75.5 k", "3.41 M", "7 B", "–"]
    assert [energy(value) for value in (0, 0.001, 3.48, 12_345)] == ["0.00 Wh", "< 0.01 Wh", "3.48 Wh", "12.3 kWh"]
    assert [percent(1, 40), percent(1, 2), percent(0, 0)] == ["2.5 %", "50 %", "–"]
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["", "a", "a, b and c"]


def test_words_for_foreign_text() -> None:
    assert clean("a\x00b\r\nc\td\x7f\x9f\ud800") == "a␀b\nc\td␡\ufffd\ufffd"
    assert line("a\n\u202e b") == "a b"
    assert [tag("ca-valencia"), tag("und"), tag('fr" x'), tag(None)] == ["ca-valencia", "", "", ""]
    assert ordered(["zz", "gl", "und", "pt", "es"]) == ["es", "gl", "pt", "und", "zz"]


def test_losses_before_and_after_are_found_at_any_depth() -> None:
    metrics = json.loads('{"train_loss": {"first": 4, "last": 2}, "validation_loss": {"ca": {"before": 3, "after": 1}, "x": {"before": "?"}}}')
    assert before_after(metrics) == [("train loss", 4, 2), ("validation loss, Catalan", 3, 1)]
