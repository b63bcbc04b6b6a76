"""A dozen small tasks of every output type over JSONL files, as a user of lm-eval writes them."""

import json
import random
from pathlib import Path
from typing import Any

from iberlm.evaluate.asked import NO_TEMPLATE, Asked
from iberlm.evaluate.catalogue import TaskFacts
from tests.evaluate.tiny import sample_texts

CHOICE_METRICS = [
    {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
]
MULTIPLE = {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": "answer"}
GENERATED = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{text}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12},
}
TASKS: dict[str, dict[str, Any]] = {
    "sentences": MULTIPLE | {"doc_to_text": "", "target_delimiter": "", "metric_list": CHOICE_METRICS},
    "answers": MULTIPLE | {"metric_list": CHOICE_METRICS},
    "letters": MULTIPLE | {"doc_to_choice": ["A", "B", "C"], "metric_list": CHOICE_METRICS},
    "solved": MULTIPLE | {"num_fewshot": 2, "fewshot_split": "test", "metric_list": CHOICE_METRICS},
    "long_answers": MULTIPLE | {"doc_to_text": "{{text}}", "metric_list": CHOICE_METRICS},
    "agreement": MULTIPLE
    | {
        "doc_to_choice": ["no", "si"],
        "doc_to_target": "{{answer % 2}}",
        "metric_list": [
            {"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True},
            {"metric": "f1", "aggregation": "f1", "higher_is_better": True},
        ],
    },
    "last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "documents": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        ],
    },
    "exact": GENERATED | {"metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}]},
    "translated": GENERATED
    | {"metric_list": [{"metric": name, "aggregation": name, "higher_is_better": name != "ter"} for name in ("bleu", "chrf", "ter")]},
    "filtered": GENERATED
    | {
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {"name": "first-letter", "filter": [{"function": "regex", "regex_pattern": "([a-z])"}, {"function": "take_first"}]},
            {"name": "whole", "filter": [{"function": "take_first"}]},
        ],
    },
    "two_lengths": GENERATED
    | {
        "generation_kwargs": {"until": ["e"], "max_gen_toks": 5},
        "num_fewshot": 1,
        "fewshot_split": "test",
        "metric_list": [{"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}],
    },
}  # fmt: skip
PRIMARY = {
    "agreement": "mcc",
    "last_word": "acc",
    "documents": "bits_per_byte",
    "translated": "bleu",
    "filtered": "exact_match,whole",
    "two_lengths": "chrf",
    "exact": "exact_match",
}


def write_tasks(folder: Path, items: int = 23) -> Path:
    """Write every task and its items below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(7)
    texts = [text for language in ("es", "ca", "eu", "gl") for text in sample_texts(language)]
    records = []
    for number in range(items):
        words = texts[number].split()
        start = generator.randrange(0, 8)
        choices = [" ".join(words[place : place + generator.randrange(1, 5)]) for place in (start, start + 9, start + 15)]
        passage = texts[number][: generator.randrange(30, 250)]
        question = " ".join(words[20 : 20 + generator.randrange(4, 12)])
        records.append({"question": question, "choices": choices, "answer": number % 3, "text": passage, "passage": number // 3})
    (folder / "items.jsonl").write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}}, "test_split": "test"}
    for name, settings in TASKS.items():
        # JSON is YAML
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, "num_fewshot": 0, **settings, "metadata": {"version": 1.0}}), encoding="utf-8")
    return folder


def asked(folder: Path, name: str, *, cluster: str = "", template: str = NO_TEMPLATE) -> Asked:
    """The task as the engine asks it."""
    shots = int(TASKS[name].get("num_fewshot", 0))
    facts = TaskFacts(
        name=name, family=name, language="es", measures="knowledge", file=folder / f"{name}.yaml", source="own", dataset="iberlm", dataset_config="",
        revision="", licence="CC0-1.0", licence_evidence="written for the test", num_fewshot=shots, metric=PRIMARY.get(name, "acc"),
        chance=None, best=None, items=None, cluster=cluster, group="", synthetic=True, human_reviewed=False, raw_text=False,
    )  # fmt: skip
    return Asked(facts, None, shots, template, f"{name}-key")
