"""Staged copies of every data set of the catalogue, with a few made-up items in the right columns, written as `iberlm prefetch` writes them.

One row maker a data set, of the number of the row and the configuration. Columns and their types are those of the data set's card or files where these
could be seen, else those that the tasks read; the texts are ours.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value

from iberlm.core.staged import Record, data_set_folder, find_records, write_record, write_split
from iberlm.evaluate.catalogue import TaskFacts
from iberlm.evaluate.staging import Source, source_of

Row = dict[str, Any]
Maker = Callable[[int, str], Row]
ROWS = 8
"""Enough for five solved examples besides the item that is asked."""
COMMIT = "0123456789abcdef" * 2 + "01234567"

PLACES = ("Irun", "Lleida", "Ourense", "Toledo", "Alcoi", "Elx", "Baiona", "Teruel")
LETTERS = "ABCD"
FLORES = ("spa_Latn", "cat_Latn", "eus_Latn", "glg_Latn", "eng_Latn", "por_Latn", "fra_Latn", "ita_Latn", "deu_Latn")
MMLU_PROX = ("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law", "math", "other", "philosophy",
             "physics", "psychology")  # fmt: skip
INCLUDE = ("STEM", "Social Science", "Arts & Humanities", "Health oriented education", "Professional certification")
GLOBAL_MMLU = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")


def place(n: int) -> str:
    return PLACES[n % len(PLACES)]


def sentence(n: int) -> str:
    return f"El tren número {n} surt de {place(n)} a les nou."


def question(n: int) -> str:
    return f"D'on surt el tren número {n}?"


def choices(n: int, count: int) -> list[str]:
    """Different ones, the right one in turn at every place."""
    return [place(n + shift - n % count) for shift in range(count)]


def nli(n: int, _: str) -> Row:
    return {"premise": sentence(n), "hypothesis": f"Cap tren surt de {place(n)}.", "label": n % 3}


def teca(n: int, config: str) -> Row:
    return {"id": n} | nli(n, config) | {"label": str(n % 3)}


def pair(n: int, _: str) -> Row:
    return {"id": n, "sentence1": sentence(n), "sentence2": f"A les nou surt un tren de {place(n)}.", "label": n % 2}


def paws(n: int, config: str) -> Row:
    """One pair has an empty sentence: the tasks leave such pairs out."""
    return pair(n, config) | ({"sentence1": ""} if n == ROWS - 1 else {})


def parafraseja(n: int, config: str) -> Row:
    return pair(n, config) | {"id": f"te1_{n}_1", "source": "teca", "label": ("No Parafrasis", "Parafrasis")[n % 2]}


def answers_listed(n: int, _: str) -> Row:
    return {"id": str(n), "title": place(n), "context": sentence(n), "question": question(n), "answers": [{"text": place(n), "answer_start": 25}]}


def xquad(n: int, _: str) -> Row:
    return {"id": str(n), "context": sentence(n), "question": question(n), "answers": {"text": [place(n)], "answer_start": [25]}}


def coqcat(n: int, _: str) -> Row:
    asked = [question(n), "A quina hora?"][: 1 + n % 2]
    given = [place(n), "A les nou"][: len(asked)]
    more = {"input_text": list(given), "span_text": list(given)}
    return {"id": str(n), "story": sentence(n), "questions": asked, "answers": {"input_text": given}, "additional_answers": {"0": more, "1": more}}


def belebele(n: int, config: str) -> Row:
    return {"link": "", "question_number": n % 2 + 1, "flores_passage": sentence(n - n % 2), "question": question(n),
            **{f"mc_answer{k + 1}": text for k, text in enumerate(choices(n, 4))}, "correct_answer_num": str(n % 4 + 1), "dialect": config,
            "ds": "2023-05-03"}  # fmt: skip


def candidates(count: int, **more: Any) -> Maker:
    return lambda n, _: {"id": n, "question": question(n), "candidates": choices(n, count), "answer": n % count, **more}


def eus_exams(n: int, config: str) -> Row:
    """One question has no answer: lm-eval's task leaves such questions out."""
    row = candidates(4, link="")(n, config)
    return row | {"candidates": [""] * 4, "answer": None} if n == ROWS - 1 else row


def eus_reading(n: int, _: str) -> Row:
    count = 4 - n % 2
    return {"id": n, "context": sentence(n - n % 2), "question": question(n), "candidates": choices(n, count), "answer": n % count}


def openbookqa(n: int, _: str) -> Row:
    return {"id": str(n), "question_stem": question(n), "choices": {"text": choices(n, 4), "label": list(LETTERS)}, "answerKey": LETTERS[n % 4]}


def openbookqa_gl(n: int, config: str) -> Row:
    """Some letters have a space before them, which lm-eval's task takes away."""
    return openbookqa(n, config) | {"answerKey": f" {LETTERS[n % 4]}" if n % 3 == 0 else LETTERS[n % 4]}


def arc(n: int, _: str) -> Row:
    return {"id": str(n), "question": question(n), "choices": {"text": choices(n, 4), "label": list(LETTERS)}, "answerKey": LETTERS[n % 4]}


def copa(n: int, _: str) -> Row:
    return {"premise": sentence(n), "choice1": "El tren arriba tard.", "choice2": f"La gent de {place(n)} el perd.",
            "question": ("cause", "effect")[n % 2], "label": n % 2, "idx": n, "changed": False}  # fmt: skip


def piqa(n: int, _: str) -> Row:
    return {"goal": question(n), "sol1": f"De {place(n)}.", "sol2": f"De {place(n + 1)}.", "label": n % 2}


def siqa(n: int, _: str) -> Row:
    return {"context": sentence(n), "question": question(n), "answerA": place(0), "answerB": place(1), "answerC": place(2), "label": str(n % 3 + 1)}


def story(n: int, _: str) -> Row:
    told = {f"input_sentence_{k}": f"{sentence(n)} Parada {k}." for k in range(1, 5)}
    return {"story_id": str(n), **told, "sentence_quiz1": "Arriba a l'hora.", "sentence_quiz2": "Es fa de nit.", "answer_right_ending": n % 2 + 1}


def story_gl(n: int, _: str) -> Row:
    told = {f"InputSentence{k}": f"{sentence(n)} Parada {k}." for k in range(1, 5)}
    return {"InputStoryid": str(n), **told, "RandomFifthSentenceQuiz1": "Chega á hora.", "RandomFifthSentenceQuiz2": "Faise de noite.",
            "AnswerRightEnding": n % 2 + 1}  # fmt: skip


def mgsm(n: int, _: str) -> Row:
    return {"question": f"Hi ha {n} trens i n'arriben 2. Quants n'hi ha?", "answer": None, "answer_number": n + 2, "equation_solution": None}


def mgsm_solved(n: int, config: str) -> Row:
    return mgsm(n, config) | {"answer": f"Erantzuna urratsez urrats: {n} + 2 = {n + 2}. Erantzuna {n + 2} da.", "equation_solution": f"{n} + 2 = {n + 2}"}


def mgsm_gl(n: int, config: str) -> Row:
    return {name: value for name, value in mgsm(n, config).items() if name in ("question", "answer_number")}


def acceptability(text: str, label: str) -> Maker:
    return lambda n, _: {"ID": str(n), text: sentence(n) if n % 2 else f"Tren el {n} surten de {place(n)}.", label: n % 2}


def galcola(n: int, config: str) -> Row:
    told = {"paper_id": "PROPOR2022", "source_type": "NUM_1", "source_id": n // 2, "condition": "ba"[n % 2]}
    return told | {"sentence": acceptability("sentence", "label")(n, config)["sentence"], "label": n % 2}


def multiblimp(n: int, _: str) -> Row:
    return {"sen": sentence(n), "wrong_sen": f"El tren número {n} surten de {place(n)} a les nou.", "prefix": "El tren", "phenomenon": ("SV-#", "SV-P")[n % 2]}


def bhs(n: int, _: str) -> Row:
    return {"context": f"{n}. trena", "ending_good": " joan da.", "ending_bad": " joan du."}


def summary(**names: str) -> Maker:
    """An article and its summary; `names` are the columns of `text`, `summary` and, where there is one, `title`."""

    def make(n: int, _: str) -> Row:
        told = {"text": f"{sentence(n)}  {sentence(n + 1)}", "title": place(n), "summary": f"Un tren surt de {place(n)}."}
        return {"id": str(n)} | {column: told[kind] for kind, column in names.items()}

    return make


def cabreu(n: int, _: str) -> Row:
    three = {f"a{k}": f"Surt  un tren de {place(n)}, {k}." for k in (1, 2, 3)}
    kinds = ("extractive", "abstractive", "extreme")
    return {"id": str(n), "title": place(n), "subtitle": "", "content": f"{sentence(n)}  {sentence(n + 1)}", "summaries": dict.fromkeys(kinds, three)}


def options(n: int, _: str) -> Row:
    return {"id": str(n), "instruction": question(n), **{f"option_{letter.lower()}": text for letter, text in zip(LETTERS, choices(n, 4), strict=True)},
            "answer": LETTERS[n % 4]}  # fmt: skip


def include(n: int, config: str) -> Row:
    row = options(n, config)
    return row | {"question": question(n), "answer": n % 4, "domain": INCLUDE[n % len(INCLUDE)], "subject": "trens", "language": config}


def global_mmlu(n: int, config: str) -> Row:
    return options(n, config) | {"question": question(n), "subject": "trens", "subject_category": GLOBAL_MMLU[n % len(GLOBAL_MMLU)]}


def mmlu_prox(n: int, _: str) -> Row:
    filled = {f"option_{k}": place(k) if k < 8 else None for k in range(10)}
    return {"question_id": n, "question": question(n), **filled, "answer": LETTERS[n % 4], "answer_index": n % 4,
            "cot_content": "A: Pensemos paso a paso. La respuesta es (A).", "category": MMLU_PROX[n % len(MMLU_PROX)]}  # fmt: skip


def headqa(n: int, _: str) -> Row:
    return {"qid": str(n), "qtext": question(n), "ra": n % 4 + 1, "answers": [{"aid": k + 1, "atext": text} for k, text in enumerate(choices(n, 4))]}


def careqa(n: int, _: str) -> Row:
    return {"question": question(n), **{f"op{k + 1}": text for k, text in enumerate(choices(n, 4))}, "cop": n % 4 + 1, "category": "trens", "year": 2024}


def bbq(n: int, config: str) -> Row:
    """Open and settled contexts, for and against the stereotype, of two templates."""
    return {"instance_id": n, "template_id": n // 4 + 1, "version": "a", "template_label": "t", "flipped": "all",
            "question_polarity": ("neg", "nonneg")[n // 4 % 2], "context_condition": ("ambig", "disambig")[n % 2], "category": config, "subcategory": "",
            "relevant_social_value": "trens", "stereotyped_groups": ["Lleida"],
            "answer_info": {"ans0": ["Lleida", "Lleida"], "ans1": ["Irun", "Irun"], "ans2": ["unknown", "unknown"]}, "stated_gender_info": "f",
            "proper_nouns_only": False, "context": sentence(n), "question": question(n), "ans0": "La gent de Lleida", "ans1": "La gent d'Irun",
            "ans2": "unknown", "question_type": ("pro-stereo", "anti-stereo")[n // 2 % 2], "label": n // 2 % 2 if n % 2 else 2, "source": []}  # fmt: skip


def truthful(n: int, config: str) -> Row:
    """The columns of the original data set's two configurations."""
    true, false = ["Surt a les nou.", "Surt puntual"], ["No surt cap tren.", "Vola"]
    if config == "multiple_choice":
        only, both = {"choices": [true[0], *false], "labels": [1, 0, 0]}, {"choices": true + false, "labels": [1, 1, 0, 0]}
        return {"question": question(n), "mc1_targets": only, "mc2_targets": both}
    return {"type": "Adversarial", "category": "trens", "question": f"{question(n)} ", "best_answer": true[0], "correct_answers": true,
            "incorrect_answers": false, "source": ""}  # fmt: skip


def truthful_multi(n: int, config: str) -> Row:
    told = truthful(n, "multiple_choice") | truthful(n, "generation")
    return {"id": n + 1} | told | {"annotation": "", "lang": config}


def truthful_multi_solved(n: int, config: str) -> Row:
    """Of the questions that are solved examples only the right answer is there, and the lists are empty."""
    told = truthful_multi(n, config)
    only = {"choices": [told["best_answer"]], "labels": [1]}
    return told | {"mc1_targets": only, "mc2_targets": only, "correct_answers": [], "incorrect_answers": []}


def phrases(*languages: str) -> Maker:
    return lambda n, _: {"id": n, **{language: f"{sentence(n)} ({language})" for language in languages}}


def flores(n: int, _: str) -> Row:
    return {language: f"{sentence(n)} ({language})" for language in FLORES}


def cocoteros(n: int, _: str) -> Row:
    return {"id": n, "keywords": f"tren, {place(n)}", "context": question(n), "text": sentence(n)}


def terretaqa(n: int, _: str) -> Row:
    return {"id": n, "input": question(n), "target": f"De {place(n)}."}


def cieacova(n: int, config: str) -> Row:
    level = ("B1", "B2", "C1", "C2")[n % 4]
    task = ("text", "oracions", "definició")[n % 3]
    told = {"Anotador": "1", "Año": "2024", "Dificultad": level, "Fuente": "", "Idioma": "va", "Mes": "", "N. Pregunta": str(n), "Sección": ""}
    return {"Tarea": config, "Instrucción": f"Trieu la paraula, {task}.", "Pista": "", "Pregunta": sentence(n), "Respuesta": [place(n)],
            "Opciones": choices(n, 4), "Metadata": told, "Prompt": "", "Subtarea": task}  # fmt: skip


def ifeval(n: int, language: str) -> Row:
    kinds = ("punctuation:no_comma", "length_constraints:number_words")
    kind = f"{language}:{kinds[n % 2]}"
    arguments = {"num_words": 3, "relation": "at least"} if n % 2 else {"num_words": None, "relation": None}
    return {"key": n, "prompt": question(n), "instruction_id_list": [kind], "kwargs": [arguments]}


BHTC = ("Ekonomia", "Euskal Herria", "Euskara", "Gizartea", "Historia", "Ingurumena", "Iritzia", "Komunikazioa", "Kultura", "Nazioartea", "Politika",
        "Zientzia")  # fmt: skip


def basque_glue(n: int, config: str) -> Row:
    """As in the files of the benchmark's own repository; the hub has them behind a loading script only."""
    text = f"{n}. trena {place(n)} hiritik ateratzen da ."
    spans = {"span1_text": f"{n}. trena", "span2_text": place(n), "span1_index": 0, "span2_index": 3}  # the second counts from 1
    misread = {"sentence1": f"{text} ", "sentence2": "Trena dator , &Acirc;« berandu &Acirc;» . ", "start1": 3, "start2": 0, "end1": 8, "end2": 5}
    return {"idx": n} | {
        "qnli": {"label": ("entailment", "not_entailment")[n % 2], "question": question(n), "sentence": text},
        "bec": {"label": ("N", "NEU", "P")[n % 3], "text": text},
        "bhtc": {"label": BHTC[n % 12], "text": text},
        "vaxx": {"label": ("AGAINST", "NONE", "FAVOR")[n % 3], "text": text},
        "coref": {"label": bool(n % 2), "text": text, "target": spans},
        "wic": {"label": bool(n % 2), "word": "tren", **misread},
    }[config]


def eqbench(n: int, _: str) -> Row:
    scores = {f"emotion{k}": f"Emotion{k}" for k in range(1, 5)} | {f"emotion{k}_score": str((n + k) % 10) for k in range(1, 5)}
    return {"prompt": sentence(n), "reference_answer_fullscale": repr(scores)}


MAKERS: dict[str, Maker] = {
    "BSC-LT/CaBBQ": bbq,
    "BSC-LT/COPA-es": copa,
    "BSC-LT/EQ-bench_ca": eqbench,
    "BSC-LT/EQ-bench_es": eqbench,
    "BSC-LT/EsBBQ": bbq,
    "BSC-LT/IFEval_es": lambda n, _: ifeval(n, "es"),
    "BSC-LT/openbookqa-es": openbookqa,
    "CohereForAI/include-base-44": include,
    "CohereLabs/Global-MMLU-Lite": global_mmlu,
    "EleutherAI/headqa": headqa,
    "Geralt-Targaryen/MELA": acceptability("sentence", "label"),
    "HPAI-BSC/CareQA": careqa,
    "HiTZ/ARC-eu": arc,
    "HiTZ/BertaQA": candidates(3, category="trenak", group="tokikoa", difficulty=1),
    "HiTZ/EusExams": eus_exams,
    "HiTZ/EusProficiency": candidates(4),
    "HiTZ/EusReading": eus_reading,
    "HiTZ/EusTrivia": candidates(4, category="trenak", difficulty="erraza"),
    "HiTZ/MGSM-eu": mgsm,
    "HiTZ/PAWS-eu": paws,
    "HiTZ/PIQA-eu": piqa,
    "HiTZ/XCOPA-eu": copa,
    "HiTZ/truthfulqa-multi": truthful_multi,
    "HiTZ/wnli-eu": pair,
    "HiTZ/xnli-eu": nli,
    "Iker/NoticIA": summary(text="web_text", title="web_headline", summary="summary"),
    "PlanTL-GOB-ES/wnli-es": pair,
    "alexandrainst/m_mmlu": options,
    "csebuetnlp/xlsum": summary(text="text", title="title", summary="summary"),
    "facebook/belebele": belebele,
    "facebook/xnli": nli,
    "google-research-datasets/paws-x": paws,
    "google/xquad": xquad,
    "gplsi/CA-VA_alignment_test": phrases("ca", "va"),
    "gplsi/ES-VA_translation_test": phrases("es", "va"),
    "gplsi/TerretaQA": terretaqa,
    "gplsi/cieacova": cieacova,
    "gplsi/cocoteros": cocoteros,
    "gplsi/cocoteros_va": cocoteros,
    "gplsi/truthfulqa_va": truthful,
    "gplsi/xnli_va": nli,
    "jmichaelov/bhs": bhs,
    "juletxara/mgsm": mgsm,
    "juletxara/xstory_cloze": story,
    "jumelet/multiblimp": multiblimp,
    "li-lab/MMLU-ProX": mmlu_prox,
    "mrlbenchmarks/global-piqa-nonparallel": lambda n, _: {"prompt": question(n), "solution0": place(n), "solution1": place(n + 1), "label": n % 2},
    "mteb/flores": flores,
    "nbel/CatCoLA": acceptability("Sentence", "Label"),
    "nbel/EsCoLA": acceptability("Sentence", "Label"),
    "orai-nlp/basqueGLUE": basque_glue,
    "projecte-aina/COPA-ca": copa,
    "projecte-aina/CoQCat": coqcat,
    "projecte-aina/IFEval_ca": lambda n, _: ifeval(n, "ca"),
    "projecte-aina/PAWS-ca": paws,
    "projecte-aina/Parafraseja": parafraseja,
    "projecte-aina/arc_ca": arc,
    "projecte-aina/caBreu": cabreu,
    "projecte-aina/catalanqa": answers_listed,
    "projecte-aina/mgsm_ca": mgsm,
    "projecte-aina/openbookqa_ca": openbookqa,
    "projecte-aina/piqa_ca": piqa,
    "projecte-aina/siqa_ca": siqa,
    "projecte-aina/teca": teca,
    "projecte-aina/wnli-ca": pair,
    "projecte-aina/xnli-ca": nli,
    "projecte-aina/xquad-ca": answers_listed,
    "projecte-aina/xstorycloze_ca": story,
    "proxectonos/PAWS-gl": paws,
    "proxectonos/belebele_gl": belebele,
    "proxectonos/galcola": galcola,
    "proxectonos/mgsm_gl": mgsm_gl,
    "proxectonos/openbookqa_gl": openbookqa_gl,
    "proxectonos/parafrases_gl": lambda n, _: {"Frase": sentence(n), "Paráfrase": f"De {place(n)} surt un tren.", "Avaliación": n % 3},
    "proxectonos/summarization_gl": summary(summary="summary", text="text"),
    "proxectonos/truthfulqa_gl": truthful,
    "proxectonos/xnli_gl": lambda n, _: {"sentence1": sentence(n), "sentence2": place(n), "gold_label": ("entailment", "neutral", "contradiction")[n % 3]},
    "proxectonos/xstorycloze_gl": story_gl,
}
"""Row makers by data set."""
SOLVED = dict.fromkeys(("juletxara/mgsm", "projecte-aina/mgsm_ca", "proxectonos/mgsm_gl", "HiTZ/MGSM-eu"), mgsm_solved)
SOLVED |= {"HiTZ/truthfulqa-multi": truthful_multi_solved}
"""Of data sets whose split `train` has other rows than the others: columns filled, or not."""
GROUPS = {"li-lab/MMLU-ProX": len(MMLU_PROX), "CohereForAI/include-base-44": len(INCLUDE), "CohereLabs/Global-MMLU-Lite": len(GLOBAL_MMLU)}
"""Data sets of which a task asks one of so many groups."""
CLASSES = {"facebook/xnli": ("label", ["entailment", "neutral", "contradiction"]), "HiTZ/wnli-eu": ("label", ["not_entailment", "entailment"])}
"""Labels that are classes with names in the data set."""
EMPTY = {"mgsm": Features({"question": Value("string"), "answer": Value("string"), "answer_number": Value("int32"), "equation_solution": Value("string")})}
"""Types of columns that hold nothing in a split."""


def rows_of(dataset: str, config: str, split: str) -> Dataset:
    """Made-up rows of a split of a data set."""
    if dataset not in MAKERS:
        raise KeyError(f"tests/evaluate/staged.py has no row maker for the data set '{dataset}'; write one of the columns that its task reads")
    maker = SOLVED.get(dataset, MAKERS[dataset]) if split == "train" else MAKERS[dataset]
    made = [maker(number, config) for number in range(ROWS * GROUPS.get(dataset, 1))]
    features = EMPTY["mgsm"] if MAKERS[dataset] is mgsm else Dataset.from_list(made).features
    if dataset in CLASSES:
        column, names = CLASSES[dataset]
        features[column] = ClassLabel(names=names)
    return Dataset.from_list(made, features=features)


def stage(root: Path, source: Source, *, licence: str = "CC-BY-4.0") -> Path:
    """Write the staged copy of what a task reads below `root`; return its folder."""
    revision = source.revision or COMMIT
    folder = data_set_folder(root, source.dataset, source.config, source.arguments) / revision
    before = [record for path, record in find_records(root, source.dataset, source.config, source.arguments) if path == folder]
    splits = dict(before[0].splits) if before else {}
    for split in source.splits:
        if split not in splits:
            rows = rows_of(source.dataset, source.config, split)
            splits[split] = write_split(folder, split, rows.with_format("arrow")[:].cast(rows.features.arrow_schema))
    record = Record(dataset=source.dataset, config=source.config, arguments=source.arguments, revision=revision, pinned=not source.revision, splits=splits,
                    licence=licence)  # fmt: skip
    write_record(folder, record)
    return folder


def stage_tasks(root: Path, tasks: Iterable[TaskFacts]) -> Path:
    """Write staged copies of the data of all these tasks; return the folder for `data`."""
    for facts in tasks:
        if (source := source_of(facts)) is not None:
            stage(root, source, licence=facts.licence)
    return root
