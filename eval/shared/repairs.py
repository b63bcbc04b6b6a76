"""Functions of the tasks `*_iberlm.yaml`: lm-eval's tasks that do not run any more, with the same prompts and scores.

lm-eval's own functions for these tasks import `transformers.data.metrics`, which transformers dropped in 5.20, or fetch ROUGE
from the hub after all inference. What they did is written anew here; `tests/evaluate/test_repaired.py` compares the two where
lm-eval's can be run. Nothing of IberLM is imported: the tasks also run with plain `lm_eval --include_path eval`.
"""

import collections
import html
import math
import re
import string
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from datasets import Dataset, Value
from lm_eval.utils import general_detokenize

Doc = dict[str, Any]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SPACES = re.compile(r" +")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _tidy(text: str, endings: str) -> str:
    """A text without the spaces that a tokeniser left, and without one of `endings` at its end."""
    text = str(general_detokenize(text)).strip()
    return text[:-1] if text.endswith(tuple(endings)) else text


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _mapped(dataset: Dataset, change: Callable[[Doc], Doc]) -> Dataset:
    return dataset.map(change, load_from_cache_file=False)


# --- labels

_INFERENCES = ("entailment", "neutral", "contradiction")
_SAME = ("false", "true")


def _labelled(dataset: Dataset, column: str, names: tuple[str, ...], change: Callable[[Doc], Doc] = lambda _: {}) -> Dataset:
    """Rows with the place of the label's class as a 64-bit integer, whatever the type of `column` was; `change` gives other columns, of types as before.

    Without a type of its own a column of `large_string`, as polars writes it, would make text of the places again.
    """
    features = dataset.features.copy()
    features[column] = Value("int64")
    return dataset.map(lambda doc: doc | change(doc) | {column: _place(doc[column], names)}, features=features, load_from_cache_file=False)


def _place(label: Any, names: tuple[str, ...]) -> int:
    """A label as the place of its class in `names`: the rows have that number, the number as text, the class's name, or a truth value of two classes.

    lm-eval takes any other label for a wrong one: such an item is never right, and nothing says so. Raises `ValueError` for it, also for -1, which some
    data sets have where the label is kept back.
    """
    spelled = _plain(label) if isinstance(label, str) else label
    if not isinstance(label, bool) or len(names) == 2:
        for place, name in enumerate(names):
            if spelled in (place, str(place), _plain(name)):
                return place
    raise ValueError(f"unknown label {label!r}; known are {', '.join(f'{place} ({name})' for place, name in enumerate(names))}")


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


# --- inference: "PREMISE, right? Yes, HYPOTHESIS."


def premises(dataset: Dataset) -> Dataset:
    """Pairs to be joined by a question: the premise without its last mark, the hypothesis in lower case with a full stop."""
    return _premises(dataset, "premise", "hypothesis", "label")


def premises_gl(dataset: Dataset) -> Dataset:
    """The same for the Galician data set, whose columns have other names."""
    return _premises(dataset, "sentence1", "sentence2", "gold_label")


def _premises(dataset: Dataset, premise: str, hypothesis: str, label: str) -> Dataset:
    return _labelled(dataset, label, _INFERENCES, lambda doc: _joined(doc[premise], doc[hypothesis], (premise, hypothesis)))


def _joined(premise: str, hypothesis: str, names: tuple[str, str]) -> Doc:
    hypothesis = _lower_first(_tidy(hypothesis, ""))
    return {names[0]: _tidy(premise, ".,!?"), names[1]: hypothesis if hypothesis.endswith(".") else f"{hypothesis}."}


# --- paraphrase: "SENTENCE, right? Yes, OTHER SENTENCE"


def pairs(dataset: Dataset) -> Dataset:
    """Pairs of sentences to be joined by a question; pairs with an empty one are left out."""
    return _pairs(dataset, ("sentence1", "sentence2"), "label", ("No Parafrasis", "Parafrasis"))


def pairs_gl(dataset: Dataset) -> Dataset:
    """The same for `parafrases_gl`, which has other columns and three classes by its card; the task takes the last two for one."""
    return _pairs(dataset, ("Frase", "Paráfrase"), "Avaliación", ("non-paraphrase", "borderline paraphrase", "paraphrase"))


def _pairs(dataset: Dataset, sentences: tuple[str, str], label: str, names: tuple[str, ...]) -> Dataset:
    first, second = sentences
    full = dataset.filter(lambda doc: bool(doc[first]) and bool(doc[second]), load_from_cache_file=False)
    return _labelled(full, label, names, lambda doc: {first: _tidy(doc[first], ".,;"), second: _lower_first(_tidy(doc[second], ""))})


def lower_choices(dataset: Dataset) -> Dataset:
    """COPA: the two choices go on with the sentence."""
    choices = ("choice1", "choice2")
    return _labelled(dataset, "label", choices, lambda doc: {name: _lower_first(doc[name]) for name in choices})


# --- answers to questions on a passage


def answer_scores(doc: Doc, results: list[str]) -> dict[str, float]:
    """Exact match and F1 by words of a generated answer with the first right one."""
    answers = doc["answers"]
    right = answers["text"][0] if isinstance(answers, dict) else answers[0]["text"]
    return {"exact_match": exact_match(right, results[0]), "f1": word_f1(right, results[0])}


def turn_scores(doc: Doc, results: list[str]) -> dict[str, float]:
    """CoQA's way: each person's answer is left out in turn, and the best of the others counts; the mean of that."""
    turn = len(doc["questions"]) - 1
    right = [doc["answers"]["input_text"][turn]]
    for other in (doc.get("additional_answers") or {}).values():
        if other["input_text"][turn].lower() not in [answer.lower() for answer in right]:
            right.append(other["input_text"][turn])
    answer = results[0].strip().split("\n")[0]
    rounds = [right[:index] + right[index + 1 :] for index in range(len(right))] if len(right) > 1 else [right]
    scores = {"em": exact_match, "f1": word_f1}
    return {name: sum(max(score(gold, answer) for gold in golds) for golds in rounds) / len(rounds) for name, score in scores.items()}


def squad_words(text: str) -> list[str]:
    """Words as SQuAD compares them: lower case, without punctuation and English articles (Rajpurkar et al. 2016, arXiv 1606.05250).

    The articles are English ones in every language, as in all published scores: a Spanish or Catalan preposition "a" is dropped too.
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(right: str, answer: str) -> float:
    """1 where the words are the same, else 0."""
    return float(squad_words(right) == squad_words(answer))


def word_f1(right: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the answer's words; of an empty text 1 where both are empty."""
    gold, given = squad_words(right), squad_words(answer)
    if not gold or not given:
        return float(gold == given)
    shared = sum((collections.Counter(gold) & collections.Counter(given)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


# --- summaries


def squeeze_spaces(dataset: Dataset) -> Dataset:
    """One space where a text or its summary has several."""
    return _mapped(dataset, lambda doc: doc | {name: _SPACES.sub(" ", doc[name]) for name in ("text", "summary")})


def squeeze_spaces_cabreu(dataset: Dataset) -> Dataset:
    """The same for caBreu: three summaries of each of three kinds."""

    def change(doc: Doc) -> Doc:
        summaries = {
            kind: {name: _SPACES.sub(" ", text) if name in ("a1", "a2", "a3") else text for name, text in found.items()}
            for kind, found in doc["summaries"].items()
        }
        return doc | {"content": _SPACES.sub(" ", doc["content"]), "summaries": summaries}

    return _mapped(dataset, change)


def rouge1(references: list[str], predictions: list[str]) -> float:
    """ROUGE-1 F-measure of one text, 0 to 1 (Lin 2004, as `rouge_score` computes it).

    An item has a score of its own and the task's value is their mean. lm-eval's value is the median of 1,000 resampled means, drawn
    anew each time: the two differ by a small part of the standard error. `rouge_score` takes a letter with an accent for a space.
    """
    return float(_scorer("rouge1").score(references[0], predictions[0])["rouge1"].fmeasure)


@cache
def _scorer(*kinds: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds))


def headline_scores(doc: Doc, results: list[str]) -> dict[str, float]:
    """NoticIA: ROUGE-1 and the length in words, both without punctuation and in lower case."""
    right, answer = (_bare(text) for text in (doc["summary"], results[0]))
    return {"rouge1": rouge1([right], [answer]), "average_len": float(len(answer.split()))}


def _bare(text: str) -> str:
    return " ".join(text.translate(_PUNCTUATION).split()).lower()


# --- TruthfulQA


def true_mass(doc: Doc, results: list[tuple[float, bool]]) -> dict[str, float]:
    """MC2: the share of the true answers in the probability of all (Lin et al. 2021, arXiv 2109.07958). True ones stand first."""
    split = list(doc["mc2_targets"]["labels"]).index(0)
    mass = [math.exp(loglikelihood) for loglikelihood, _ in results]
    return {"acc": sum(mass[:split]) / sum(mass)}


def full_stops(dataset: Dataset) -> Dataset:
    """True and false answers with a full stop, empty ones left out, and the refusal to answer as a true one.

    lm-eval's Valencian task has the refusal in Galician too; so has this one, as its published scores.
    """
    refusal = "Non teño ningún comentario."

    def change(doc: Doc) -> Doc:
        right, wrong = (_with_stops(doc[name]) for name in ("correct_answers", "incorrect_answers"))
        return {"question": doc["question"].strip(), "correct_answers": right if refusal in right else [*right, refusal], "incorrect_answers": wrong}

    return _mapped(dataset, change)


def _with_stops(answers: Iterable[str]) -> list[str]:
    stripped = [answer.strip() for answer in answers]
    return [answer if answer.endswith(".") else f"{answer}." for answer in stripped if answer]


def nearer_to_truth(doc: Doc, results: list[str]) -> dict[str, float]:
    """For each of BLEU and ROUGE (0 to 100): best score against a true answer, how far above the best false one, and whether it is."""
    true, false = doc["correct_answers"], doc["incorrect_answers"]
    found: dict[str, float] = {}
    for name, score in _similarities().items():
        nearest_true, nearest_false = (max(score(answer, results[0]) for answer in answers) for answers in (true, false))
        found |= {f"{name}_max": nearest_true, f"{name}_diff": nearest_true - nearest_false, f"{name}_acc": float(nearest_true > nearest_false)}
    return found


def _similarities() -> dict[str, Callable[[str, str], float]]:
    return {"bleu": _bleu, "rouge1": _rouge("rouge1"), "rouge2": _rouge("rouge2"), "rougeL": _rouge("rougeLsum")}


def _bleu(right: str, answer: str) -> float:
    import sacrebleu

    options = {"smooth_method": "exp", "smooth_value": 0.0, "force": False, "lowercase": False, "tokenize": "intl", "use_effective_order": False}
    return float(sacrebleu.corpus_bleu([answer], [[right]], **options).score)


def _rouge(kind: str) -> Callable[[str, str], float]:
    def score(right: str, answer: str) -> float:
        # ROUGE-Lsum goes by sentences, one a line
        texts = (text.replace(" . ", ".\n") for text in (right, answer))
        return 100 * float(_scorer("rouge1", "rouge2", "rougeLsum").score(*texts)[kind].fmeasure)

    return score


# --- exams


def spanish_domains(dataset: Dataset) -> Dataset:
    """INCLUDE in Spanish: the domains that lm-eval asks one by one."""
    asked = ("Arts & Humanities", "Health oriented education", "STEM", "Social Science")
    return dataset.filter(lambda doc: doc["domain"] in asked, load_from_cache_file=False)


# --- BasqueGLUE, whose functions in lm-eval import `datasets.load_metric`, which is gone. The hub's loading script numbers the classes; rows that are
# staged from the files of the benchmark's own repository have their names, truth values, and the spans of a coreference in a column of their own

_GLUED = (
    (re.compile(r"\s+([.,;:!?)])"), r"\1"),
    (re.compile(r"(\s+|^)\(\s+([^)]+)\s+\)"), r"\1(\2)"),
    (re.compile(r"(\s+|^)\[\s+([^)]+)\s+\]"), r"\1[\2]"),
    (re.compile(r'(\s+|^)"\s+([^"]+)\s+"'), r'\1"\2"'),
    (re.compile(r"(\s+|^)'\s+([^']+)\s+'"), r"\1'\2'"),
)
_TOPICS = ("Ekonomia", "Euskal Herria", "Euskara", "Gizartea", "Historia", "Ingurumena", "Iritzia", "Komunikazioa", "Kultura", "Nazioartea", "Politika",
           "Zientzia")  # fmt: skip


def _glued(text: str) -> str:
    text = html.unescape(text)
    for pattern, replacement in _GLUED:
        text = pattern.sub(replacement, text)
    return text


def attitudes(dataset: Dataset) -> Dataset:
    """BEC: negative, neutral and positive texts."""
    return _labelled(dataset, "label", ("N", "NEU", "P"))


def topics(dataset: Dataset) -> Dataset:
    """BHTC: texts and their topics."""
    return _labelled(dataset, "label", _TOPICS)


def stances(dataset: Dataset) -> Dataset:
    """VaxxStance: texts against, neither, and in favour."""
    return _labelled(dataset, "label", ("AGAINST", "NONE", "FAVOR"))


def answered(dataset: Dataset) -> Dataset:
    """QNLI: questions and sentences, of which the first class answers the question."""
    return _labelled(dataset, "label", ("entailment", "not_entailment"))


def word_senses(dataset: Dataset) -> Dataset:
    """WiC: sentences whose UTF-8 was read as Latin-1."""
    sentences = ("sentence1", "sentence2")
    return _labelled(dataset, "label", _SAME, lambda doc: {name: _glued(doc[name]).encode("latin-1").decode("utf-8") for name in sentences})


def coreferences(dataset: Dataset) -> Dataset:
    """EpecKorref: texts with two spans, each by its text and the place of its first token."""
    return _labelled(_mapped(dataset, lambda doc: doc | (doc.get("target") or {})), "label", _SAME)


def coreference_question(doc: Doc) -> str:
    """EpecKorref: the text with its two spans between stars, and the question whether they are the same thing."""
    tokens = doc["text"].split(" ")
    for start, span in ((doc["span1_index"], doc["span1_text"]), (doc["span2_index"] - 1, doc["span2_text"])):  # the second counts from 1
        tokens[start] = f"*{tokens[start]}"
        tokens[start + len(span.split(" ")) - 1] += "*"
    first, second = _glued(doc["span1_text"]), _glued(doc["span2_text"])
    return f'Testua: {_glued(" ".join(tokens))}\nGaldera: Aurreko testuan, "*{first}*" eta "*{second}*" gauza bera dira?\nErantzuna:'


def micro_f1(pairs: list[tuple[int, int]]) -> float:
    """Micro-averaged F1 of (right, given) labels, one each: the share of right ones."""
    return sum(right == given for right, given in pairs) / len(pairs)


def stance_f1(pairs: list[tuple[int, int]]) -> float:
    """Mean F1 of the classes against (0) and in favour (2), as VaxxStance defines it."""
    return sum(_class_f1(pairs, label) for label in (0, 2)) / 2


def _class_f1(pairs: list[tuple[int, int]], label: int) -> float:
    hits = sum(right == given == label for right, given in pairs)
    named = sum(right == label for right, _ in pairs) + sum(given == label for _, given in pairs)
    return 2 * hits / named if named else 0.0
