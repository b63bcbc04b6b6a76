"""Our versions of lm-eval's tasks ask the same requests and give the same scores as lm-eval's own, where these still run."""

import importlib.util
import re
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Value
from sklearn.metrics import f1_score

from iberlm.core.errors import DataError
from iberlm.evaluate.catalogue import REPAIRED, TaskFacts, catalogue, find_upstream, task_facts
from iberlm.evaluate.tasks import load_task, read_config

Rows = list[dict[str, Any]]
NLI = [
    {"premise": "Ella ho va dir , i prou .", "hypothesis": "Ella ho va dir", "label": 0},
    {"premise": "És cert?", "hypothesis": 'Ningú " ho sap " .', "label": 2},
    {"premise": "No ho sé", "hypothesis": "à vegades.", "label": 1},
]
PAIRS = [
    {"sentence1": "Viu a Palma ;", "sentence2": "A Palma ( hi ) viu.", "label": 1},
    {"sentence1": "", "sentence2": "Sense parella.", "label": 0},
    {"sentence1": None, "sentence2": "Tampoc.", "label": 0},
    {"sentence1": "Un  gat", "sentence2": "Un gos", "label": 0},
]
QUESTIONS = [
    {"context": "La casa és a la vora del riu.", "question": "On és la casa?", "answers": [{"text": "a la vora del riu"}, {"text": "riu"}]},
    {"context": "L'any 1987.", "question": "Quin any?", "answers": [{"text": "L'any 1987."}]},
    {"context": "Res.", "question": "Què?", "answers": [{"text": "a"}]},
]
TURNS = [
    {
        "story": "Una història.",
        "questions": ["Qui?", "On?"],
        "answers": {"input_text": ["La Maria", "A casa"]},
        "additional_answers": {name: {"input_text": ["ella", text]} for name, text in (("0", "a casa seva"), ("1", "A CASA"), ("2", "no se sap"))},
    },
    {
        "story": "Una altra.",
        "questions": ["Quan?"],
        "answers": {"input_text": ["Ahir"]},
        "additional_answers": {name: {"input_text": ["ahir"]} for name in "012"},
    },
]
TRUTHS = [
    {
        "question": " De què està feta la lluna? ",
        "correct_answers": ["De roca", "  De roca fosa.  ", ""],
        "incorrect_answers": ["De formatge . Fresc", "D'aigua."],
        "mc1_targets": {"choices": ["Roca", "Formatge"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Roca", "Pedra", "Formatge"], "labels": [1, 1, 0]},
    }
]
EXAM = {"option_a": "u", "option_b": "dos", "option_c": "tres", "option_d": "quatre"}
SUBJECTS = ("STEM", "Medical", "Humanities", "Other", "Business", "Social Sciences")
DOMAINS = ("Arts & Humanities", "Health oriented education", "STEM", "Social Science", "Driving License")
STORY = {f"input_sentence_{index}": f"Frase {index}." for index in range(1, 5)}


def _misread(text: str) -> str:
    return text.encode("utf-8").decode("latin-1")


ROWS: dict[str, Rows] = {
    "xnli": NLI,
    "xnli_gl": [
        {"sentence1": row["premise"], "sentence2": row["hypothesis"], "gold_label": ("entailment", "neutral", "contradiction")[row["label"]]} for row in NLI
    ],
    "teca": NLI,
    "paws": PAIRS,
    "parafraseja": PAIRS,
    "parafrases": [{"Frase": row["sentence1"], "Paráfrase": row["sentence2"], "Avaliación": 2 * row["label"]} for row in PAIRS],
    "copa": [
        {"premise": "Plou.", "choice1": "El terra és moll", "choice2": "Fa sol", "question": kind, "label": index}
        for index, kind in enumerate(("cause", "effect"))
    ],
    "xquad": QUESTIONS,
    "catalanqa": QUESTIONS,
    "coqcat": TURNS,
    "xstorycloze": [STORY | {"sentence_quiz1": "Fi.", "sentence_quiz2": "Res.", "answer_right_ending": answer} for answer in (1, 2)],
    "mgsm": [{"question": "Cantos?", "answer": None, "answer_number": 18}, {"question": "Pregunta: Cantos?", "answer": "Paso a paso: 3.", "answer_number": 3}],
    "xlsum": [{"text": "Un  texto   largo.", "summary": "Un  texto."}, {"text": "Otro.", "summary": "Otro más."}],
    "summarization": [{"text": "Un  texto   longo.", "summary": "Un  texto."}],
    "cabreu": [
        {
            "content": "Un  text  llarg.",
            "summaries": {kind: {name: f"{kind}  {name}" for name in ("a1", "a2", "a3")} for kind in ("abstractive", "extractive", "extreme")},
        }
    ],
    "noticia": [{"web_headline": "No lo creerás", "web_text": "Era agua.", "summary": "Era agua, nada más."}],
    "cocoteros": [{"keywords": "sol, mar", "context": "platja", "text": "El sol cau a la mar."}],
    "terretaqa": [{"input": "Què és un arnadí?", "target": "Un dolç de carabassa"}],
    "global_mmlu": [{"question": f" Quants? {subject} ", "answer": "B", "subject_category": subject, **EXAM} for subject in SUBJECTS],
    "include": [{"question": f" Quants? {domain}", "answer": 2, "domain": domain, **EXAM} for domain in DOMAINS],
    "truthfulqa_gen": TRUTHS,
    "truthfulqa_gl_gen": TRUTHS,
    "truthfulqa_gl_mc2": TRUTHS,
    "qnli": [{"question": "Non?", "sentence": "Hemen.", "label": label} for label in (0, 1)],
    "bec": [{"text": f"Testu {label}.", "label": label} for label in (0, 1, 2)],
    "bhtc": [{"text": f"Testu {label}.", "label": label} for label in (0, 11)],
    "vaxx": [{"text": f"Testu {label}.", "label": label} for label in (0, 1, 2, 2)],
    "coreference": [
        {
            "text": 'Gaur " Ane Goñi " etorri da ( bai ) , eta hark &amp; nik',
            "span1_index": 2,
            "span1_text": "Ane Goñi",
            "span2_index": 12,
            "span2_text": "hark",
            "label": 1,
        }
    ],
    "word_senses": [
        {
            "sentence1": _misread("Hamar [egun] izan ziren . "),
            "sentence2": _misread("Egunez ' epel ' dago , oñean , ") + "&Acirc;« esan zuen &Acirc;» . ",
            "word": "egun",
            "label": 0,
        }
    ],
    "flores": [{code: f"Frase en {code}." for code in ("eng_Latn", "spa_Latn", "cat_Latn", "eus_Latn", "glg_Latn")}],
}
"""Made-up rows of each data set, by the beginning of a family's name (the longest counts) or, where columns differ, of a task's."""
ANSWERS = ["", "a la vora", "De roca. Fosa", "El sol i la mar !", "Un texto"]
SPLITS = ("train", "validation", "test", "dev", "devtest", "eval")
REPAIRS = [facts for facts in catalogue().values() if facts.source == REPAIRED]


def rows_for(facts: TaskFacts) -> Rows:
    name = facts.repairs if facts.repairs in ROWS else max((key for key in ROWS if facts.family.startswith(key)), key=len)
    rows = ROWS[name]
    if facts.dataset == "google/xquad":
        rows = [row | {"answers": {"text": [answer["text"] for answer in row["answers"]]}} for row in rows]
    return rows


def loaded(facts: TaskFacts, rows: Rows) -> Any:
    data = {split: Dataset.from_list(rows) for split in SPLITS}
    return load_task(facts, overrides={"custom_dataset": lambda **_: data, "dataset_kwargs": {}, "num_fewshot": 0}, metadata={})


def upstream(facts: TaskFacts) -> list[TaskFacts]:
    """lm-eval's task that this one stands for; of a group its tasks."""
    path = find_upstream(facts.repairs)
    if path is not None:
        return [task_facts(facts.repairs, language=facts.language, licences={facts.repairs: "test"})]
    return [task_facts(path.stem, language=facts.language, licences={path.stem: "test"}) for path in sorted(_folder(facts).glob(f"{facts.repairs}_*.yaml"))]


def _folder(facts: TaskFacts) -> Any:
    from iberlm.evaluate.tasks import lm_eval_tasks

    return next(path.parent for path in lm_eval_tasks().rglob(f"_{facts.repairs}.yaml"))


def requests(task: Any) -> list[Any]:
    task.build_all_requests(limit=None, rank=0, world_size=1)
    return [instance.arguments for instance in task.instances]


def scores(task: Any, doc: dict[str, Any], index: int) -> list[dict[str, Any]]:
    if task.OUTPUT_TYPE == "multiple_choice":
        likelihoods = [(-float((3 * index + 7 * choice) % 5) - 0.5, False) for choice in range(len(task.doc_to_choice(doc)))]
        return [dict(task.process_results(doc, likelihoods))]
    return [dict(task.process_results(doc, [answer])) for answer in [*ANSWERS, str(task.doc_to_target(doc))]]


def test_every_repaired_task_has_rows_to_be_compared_on() -> None:
    assert REPAIRS
    for facts in REPAIRS:
        assert rows_for(facts)


class F1:
    """What `datasets.load_metric("f1")` gave before it was dropped: scikit-learn's."""

    @staticmethod
    def compute(references: Any, predictions: Any, **options: Any) -> dict[str, Any]:
        return {"f1": f1_score(references, predictions, **options)}


@pytest.fixture(autouse=True)
def dropped_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_metric", lambda name: F1(), raising=False)


@pytest.mark.skipif(importlib.util.find_spec("transformers.data.metrics") is None, reason="lm-eval's own functions need transformers below 5.20")
@pytest.mark.parametrize("facts", REPAIRS, ids=lambda facts: facts.name)
def test_requests_and_scores_are_those_of_the_task_that_it_stands_for(facts: TaskFacts) -> None:
    rows = rows_for(facts)
    theirs = [loaded(entry, [_as_theirs(row, facts) for row in rows]) for entry in upstream(facts)]
    ours = loaded(facts, rows)
    expected = [arguments for task in theirs for arguments in requests(task)]
    assert sorted(map(repr, requests(ours))) == sorted(map(repr, expected))
    if len(theirs) > 1:
        assert len(ours.eval_docs) == sum(len(task.eval_docs) for task in theirs) > 0
        return
    if "f1" in ours.aggregation() and ours.OUTPUT_TYPE == "multiple_choice":
        for pairs in ([(0, 0), (1, 2), (2, 2), (2, 0), (1, 1)], [(0, 2), (2, 0)]):
            assert ours.aggregation()["f1"](pairs) == pytest.approx(theirs[0].aggregation()["f1"](pairs))
    for index, (mine, other) in enumerate(zip(ours.eval_docs, theirs[0].eval_docs, strict=True)):
        for found, wanted in zip(scores(ours, mine, index), scores(theirs[0], other, index), strict=True):
            assert set(found) == set(wanted)
            for metric in set(found) - {"rouge1", "average_len"}:  # lm-eval's are lists until the end
                assert found[metric] == pytest.approx(wanted[metric], abs=1e-12) if isinstance(found[metric], float) else found[metric] == wanted[metric]


def _as_theirs(row: dict[str, Any], facts: TaskFacts) -> dict[str, Any]:
    return {f"sentence_{name}": text for name, text in row.items()} if facts.dataset == "mteb/flores" else row


CLASSES = {
    "xnli_ca": ("entailment", "neutral", "contradiction"),
    "teca": ("entailment", "neutral", "contradiction"),
    "xnli_gl": ("entailment", "neutral", "contradiction"),
    "parafraseja": ("No Parafrasis", "Parafrasis"),
    "parafrases_gl": ("0", "1", "2"),
    "paws_ca": ("0", "1"),
    "copa_ca": ("0", "1"),
    "qnlieu": ("entailment", "not_entailment"),
    "bec2016eu": ("N", "NEU", "P"),
    "bhtc_v2": ("Ekonomia", "Euskal_Herria", "Euskara", "Gizartea", "Historia", "Ingurumena", "Iritzia", "Komunikazioa", "Kultura", "Nazioartea", "Politika",
                "Zientzia"),
    "vaxx_stance": ("AGAINST", "NONE", "FAVOR"),
    "wiceu": (False, True),
    "epec_koref_bin": (False, True),
}  # fmt: skip
"""Names of the labels in the files of data sets, of which the hub's loading scripts make numbers."""
COLUMNS = {"xnli_gl": "gold_label", "parafrases_gl": "Avaliación"}
"""Columns of the labels that are not `label`."""
TYPES = {"large text": Value("large_string"), "text": Value("string"), "small": Value("int8"), "fraction": Value("float64")}


def numbered(name: str) -> Rows:
    """A data set's rows with numbers for labels."""
    column = COLUMNS.get(name, "label")
    rows = rows_for(task_facts(f"{name}_iberlm"))
    return [row | {column: row[column] if isinstance(row[column], int) else CLASSES[name].index(row[column])} for row in rows]


def relabelled(name: str, labels: list[Any], feature: Any = None) -> Any:
    """A task with other labels in its rows, of a given type."""
    column = COLUMNS.get(name, "label")
    rows = Dataset.from_list([row | {column: label} for row, label in zip(numbered(name), labels, strict=True)])
    data = {split: rows.cast_column(column, feature) if feature else rows for split in SPLITS}
    return load_task(task_facts(f"{name}_iberlm"), overrides={"custom_dataset": lambda **_: data, "dataset_kwargs": {}, "num_fewshot": 0}, metadata={})


def assert_same(task: Any, expected: Any) -> None:
    assert requests(task) == requests(expected)
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == [expected.doc_to_target(doc) for doc in expected.eval_docs]
    for index, (doc, other) in enumerate(zip(task.eval_docs, expected.eval_docs, strict=True)):
        assert scores(task, doc, index) == scores(expected, other, index)


@pytest.mark.parametrize("spelling", ["number as text", "name", "name in a column of large text"])
@pytest.mark.parametrize("name", CLASSES)
def test_labels_are_understood_however_the_rows_spell_them(name: str, spelling: str) -> None:
    numbers = [row[COLUMNS.get(name, "label")] for row in numbered(name)]
    names = [CLASSES[name][number] for number in numbers]
    if spelling == "name in a column of large text":
        task = relabelled(name, [str(label) for label in names], Value("large_string"))
    else:
        task = relabelled(name, names if spelling == "name" else [str(number) for number in numbers])
    assert_same(task, relabelled(name, numbers))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", CLASSES)
def test_labels_are_understood_in_columns_of_every_type(name: str, kind: str) -> None:
    numbers = [row[COLUMNS.get(name, "label")] for row in numbered(name)]
    assert_same(relabelled(name, numbers, TYPES[kind]), relabelled(name, numbers))


@pytest.mark.parametrize(("name", "labels"), [("copa_ca", [False, True]), ("paws_ca", [True, False, False, False]), ("epec_koref_bin", [True])])
def test_truth_values_are_labels_of_two_classes(name: str, labels: list[bool]) -> None:
    assert_same(relabelled(name, labels), relabelled(name, [int(label) for label in labels]))


def test_labels_may_be_classes_of_the_data_set() -> None:
    numbers = [row["label"] for row in numbered("xnli_ca")]
    assert_same(relabelled("xnli_ca", numbers, ClassLabel(names=list(CLASSES["xnli_ca"]))), relabelled("xnli_ca", numbers))


def test_a_cause_in_a_column_of_large_text_stays_the_first_choice() -> None:
    task = relabelled("copa_ca", ["0", "1"], Value("large_string"))
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == ["el terra és moll", "fa sol"]


@pytest.mark.parametrize("label", [0, 0.0, "0", " 0 "])
def test_a_galician_pair_that_is_no_paraphrase_stays_one(label: Any) -> None:
    task = relabelled("parafrases_gl", [label] * 4)
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == [0, 0]


@pytest.mark.parametrize("label", ["1", "2", 1, 2.0])
def test_a_galician_borderline_pair_counts_as_paraphrase(label: Any) -> None:
    task = relabelled("parafrases_gl", [label] * 4)
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == [1, 1]


FOREIGN = {
    "xnli_ca": [3, "3", "not_entailment", "true", True, "p"],
    "teca": ["favor"],
    "xnli_gl": ["none"],
    "parafrases_gl": [3, 0.5, "Parafrasis", True],
    "parafraseja": ["entailment", 2],
    "paws_ca": ["true", 2],
    "copa_ca": ["true", 2],
    "qnlieu": ["neutral", "contradiction", "not"],
    "bec2016eu": ["NONE", "neutral", 3],
    "bhtc_v2": ["N", 12],
    "vaxx_stance": ["NEU", "P", 3],
    "wiceu": ["Parafrasis", 2],
    "epec_koref_bin": ["entailment", 2],
}
"""Labels of other data sets, and numbers that are none of a class."""


@pytest.mark.parametrize("label", ["perhaps", "", "-1", -1, 0.7, float("nan"), None], ids=repr)
@pytest.mark.parametrize("name", CLASSES)
def test_an_unknown_label_is_no_silent_zero(name: str, label: Any) -> None:
    with pytest.raises(DataError, match=rf"ValueError: unknown label {re.escape(repr(label))}; known are 0 \(.*\), 1 \("):
        relabelled(name, [label] * len(numbered(name)))


@pytest.mark.parametrize(("name", "label"), [(name, label) for name, labels in FOREIGN.items() for label in labels])
def test_a_label_of_another_data_set_is_unknown(name: str, label: Any) -> None:
    with pytest.raises(DataError, match=f"ValueError: unknown label {re.escape(repr(label))}; known are 0"):
        relabelled(name, [label] * len(numbered(name)))


def test_the_message_of_an_unknown_label_names_the_classes_of_its_data_set() -> None:
    with pytest.raises(DataError, match=r"unknown label 'NONE'; known are 0 \(N\), 1 \(NEU\), 2 \(P\)"):
        relabelled("bec2016eu", ["NONE"] * 3)


def test_a_problem_needs_no_column_for_its_steps() -> None:
    facts = task_facts("mgsm_direct_gl_iberlm")
    rows = ROWS["mgsm"][:1]
    bare = [{name: row[name] for name in ("question", "answer_number")} for row in rows]
    assert requests(loaded(facts, bare)) == requests(loaded(facts, rows))


def test_spans_of_coreferences_may_have_a_column_of_their_own() -> None:
    facts = task_facts("epec_koref_bin_iberlm")
    rows = ROWS["coreference"]
    nested = [{"text": row["text"], "label": row["label"], "target": {name: row[name] for name in row if name.startswith("span")}} for row in rows]
    assert requests(loaded(facts, nested)) == requests(loaded(facts, rows))


@pytest.mark.parametrize("facts", [facts for facts in REPAIRS if facts.metric == "rouge1"], ids=lambda facts: facts.name)
def test_rouge_is_that_of_its_package_for_each_item(facts: TaskFacts) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    task = loaded(facts, rows_for(facts))
    doc = task.eval_docs[0]
    right = str(task.doc_to_target(doc))
    for answer in ("El sol cau", right, ""):
        wanted = RougeScorer(["rouge1"]).score(right, answer)["rouge1"].fmeasure
        assert dict(task.process_results(doc, [answer]))["rouge1"] == pytest.approx(wanted)
    assert task.aggregation()["rouge1"]([0.0, 0.5, 1.0]) == 0.5


def test_a_summary_of_a_headline_has_its_length_in_words() -> None:
    task = loaded(task_facts("noticia_iberlm"), ROWS["noticia"])
    assert dict(task.process_results(task.eval_docs[0], ["Era: agua,  nada\nmás."])) == {"rouge1": 1.0, "average_len": 4.0}


@pytest.mark.parametrize("facts", REPAIRS, ids=lambda facts: facts.name)
def test_settings_name_no_program_of_the_hub(facts: TaskFacts) -> None:
    settings = read_config(facts)
    assert settings["task"] == facts.name == facts.file.stem
    assert "evaluate" not in repr(settings)
    assert settings["metadata"]["language"] == facts.language
