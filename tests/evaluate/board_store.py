"""A real result store of a few made-up models and tasks in the five languages: alarms, gaps, groups, clean values, and names that mean harm."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iberlm.core.files import sha256_json
from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.catalogue import TaskFacts, catalogue
from iberlm.evaluate.scoring import Metric, Scoring, prompts_hash, result_rows
from iberlm.evaluate.store.store import Store

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&{{7*7}}</style>"
HOSTILE_TASK = '../../<b>task</b> & "co" {{7*7}} $x_1$ %'
LONG = "an-organisation-with-a-very-long-name/a-model-with-an-even-longer-name-that-does-not-want-to-end-instruct-2026-11-23-preview"
MOMENT = 1_795_000_000.0
"""2026-11-18, of the first result."""
SOFTWARE = {"lm_eval": "0.4.13", "torch": "2.13.0", "transformers": "5.19.0"}
TEMPLATE = "c" * 64
_MEASURES = ("reading", "commonsense", "inference", "acceptability", "knowledge")


@dataclass(frozen=True)
class MadeUp:
    """A model: how often it is right, from 0 (guesses) to 1."""

    name: str
    skill: float
    parameters: int | None = 1_200_000_000
    dtype: str = "bfloat16"
    backend: str = "transformers"
    template: str = "none"
    num_fewshot: int = 0
    lacks: tuple[str, ...] = ()
    """Languages that it was not asked in."""
    constant: bool = False
    """Always takes the first choice."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """In place of the SHA-256 of weights."""
        return sha256_json(self.name)

    @property
    def command(self) -> str:
        """Before the tasks."""
        chat = " chat_template=true" if self.template != "none" else ""
        return f"iberlm evaluate 'model={self.name}'" + (" dtype=float32" if self.dtype == "float32" else "") + chat


SMALL = MadeUp("iberlm/demo-1b", 0.35)
LARGE = MadeUp("iberlm/demo-7b", 0.75, 7_100_000_000)
CHAT = replace(LARGE, skill=0.7, template=TEMPLATE)
TWIN = MadeUp("/home/somebody/runs/a/model", 0.74, 7_000_000_000, dtype="float32")
PATH = MadeUp("/home/somebody/runs/b/model", 0.5, 3_000_000_000, lacks=("eu", "gl"))
CONSTANT = MadeUp(LONG, 0.0, None, constant=True)
SERVED = MadeUp(HOSTILE, 0.2, None, dtype="unknown", backend="openai")
MODELS = (SMALL, LARGE, CHAT, TWIN, PATH, CONSTANT, SERVED)


def tasks_of(language: str, most: int = 4) -> list[TaskFacts]:
    """Tasks of the catalogue with a scale from chance to best, one a measure; real names, made-up items."""
    found: dict[str, TaskFacts] = {}
    for facts in sorted(catalogue().values(), key=lambda facts: facts.source == "own"):
        fits = facts.language == language and facts.measures in _MEASURES and facts.family != "minimal_pairs"
        if fits and facts.chance is not None and facts.metric in ("acc", "acc_norm"):
            found.setdefault(facts.measures, facts)
    return sorted(found.values(), key=lambda facts: _MEASURES.index(facts.measures))[:most]


def write_store(folder: Path, models: Sequence[MadeUp] = MODELS, *, languages: Iterable[str] = LANGUAGES, items: int = 160, hostile: bool = True) -> Path:
    """A store with everything that the leaderboard has to show; the same arguments give the same rows."""
    store = Store(folder)
    known = catalogue()
    for number, model in enumerate(models):
        for language in languages:
            if language in model.lacks:
                continue
            for facts in tasks_of(language):
                # one model has not got one task
                if model is TWIN and facts.measures == "inference" and language == "ca":
                    continue
                _ask(store, model, facts, items, number)
            _ask(store, model, known[f"minimal_pairs_{language.replace('-', '_')}"], 40, number, groups=("agreement", "clitics"))
            _bits(store, model, known[f"bits_per_byte_{language.replace('-', '_')}"], number)
        if {"ca", "ca-valencia", "es"} <= set(languages):
            _varieties(store, model, number)
    facts = replace(tasks_of("ca")[0], name=HOSTILE_TASK, family=HOSTILE_TASK, synthetic=True, human_reviewed=False, licence="LicenseRef-<b>x</b>")
    for number, model in enumerate(models[:3] if hostile else ()):
        _ask(store, model, facts, 30, number, groups=(HOSTILE,), hostile=True)
    return folder


def _ask(store: Store, model: MadeUp, facts: TaskFacts, items: int, number: int, *, groups: Sequence[str] = (), hostile: bool = False) -> None:
    """A multiple choice: its items, and its results by the same functions that the stage has them from."""
    if facts.raw_text and model.template != "none":  # answered without a template already
        return
    draw = random.Random(f"{model.name} {model.template} {facts.name}")
    choices = max(2, round(1 / (facts.chance or 0.5)))
    rows = []
    for item in range(items):
        target = random.Random(f"{facts.name} {item}").randrange(choices)
        likelihoods = [round(-draw.uniform(5, 30), 4) for _ in range(choices)]
        if draw.random() < model.skill:
            likelihoods[target] = round(-draw.uniform(0.5, 4), 4)
        if model.constant:
            likelihoods = [-1.0, *[-2.0] * (choices - 1)]
        text = HOSTILE if hostile else f"Pregunta {item}: què és el número {item * 7919}? ¿Cuántos? Zenbat?"
        prediction = likelihoods.index(max(likelihoods))
        right = float(prediction == target)
        rows.append(
            _common(model, facts, number)
            | {
                "item": item,
                "id": f"{facts.family}-{item}" if item % 2 else str(item),
                "prompt_hash": sha256_json([facts.name, item, model.template]),
                "item_hash": sha256_json([facts.name, item]),
                "cluster": f"passage {item // 4}" if facts.measures == "reading" else None,
                "group": groups[item % len(groups)] if groups else None,
                "prompt": f"<|user|>{text}" if model.template != "none" else text,
                "choices": [f"{HOSTILE if hostile else 'resposta'} {place}" for place in range(choices)],
                "target": str(target),
                "prediction": str(prediction),
                "responses": json.dumps([[value, place == prediction] for place, value in enumerate(likelihoods)]),
                "metrics": json.dumps({f"{facts.metric},none": right, "other,none": right}),
                "score": right,
                "weight": 1.0,
                "truncated": item == 3 and facts.measures == "reading",
            }
        )
    metrics = [Metric(facts.metric, "mean", True), Metric("other", "mean", True)]
    clean = [item % 5 != 0 for item in range(items)] if facts.language == "es" else None
    found = result_rows(Scoring(facts, metrics, 1234, facts.chance), rows, clean)
    store.append(rows, [row | _about(model, facts, rows, number) for row in found])


def _bits(store: Store, model: MadeUp, facts: TaskFacts, number: int) -> None:
    """A task on a scale of its own, where lower is better."""
    draw = random.Random(f"{model.name} {facts.name}")
    rows = []
    for item in range(30):
        size = 400 + item
        nats = -size * math.log(2) * (2.2 - model.skill + draw.uniform(-0.2, 0.2))
        rows.append(
            _common(model, facts, number)
            | {
                "item": item,
                "id": str(item),
                "prompt_hash": sha256_json([facts.name, item]),
                "prompt": "",
                "choices": [],
                "target": None,
                "prediction": None,
                "responses": json.dumps([nats]),
                "metrics": json.dumps({"bits_per_byte,none": [nats, size]}),
                "score": -nats / math.log(2) / size,
                "weight": float(size),
                "truncated": False,
            }
        )
    found = result_rows(Scoring(facts, [Metric("bits_per_byte", "bits_per_byte", False)], 1234, None), rows, None)
    store.append(rows, [row | _about(model, facts, rows, number) for row in found])


def _varieties(store: Store, model: MadeUp, number: int) -> None:
    """The frames of Central Catalan and Valencian, and of Peninsular and American Spanish."""
    known = catalogue()
    for name, sides in (("variety_ca", ("",)), ("variety_ca_valencia", ("",)), ("peninsular_es", ("peninsular", "american"))):
        facts, rows = known[name], []
        if facts.raw_text and model.template != "none":
            continue
        for item in range(80):
            side = sides[item % len(sides)]
            draw = random.Random(f"{model.name} {model.template} {name} {item}")
            right = float(draw.random() < (0.5 + model.skill / 2 if name != "variety_ca_valencia" else 0.5))
            rows.append(
                _common(model, facts, number)
                | {
                    "item": item,
                    "id": f"frame-{item // len(sides)}:{side}" if side else f"frame-{item}",
                    "prompt_hash": sha256_json([name, item, model.template]),
                    "group": f"addressed_{side}" if side else "demonstratives",
                    "prompt": "Trieu la forma.",
                    "choices": ["este", "aquest"],
                    "target": "0",
                    "prediction": str(int(not right)),
                    "responses": json.dumps([[-1.0 if right else -3.0, True], [-2.0, False]]),
                    "metrics": json.dumps({"acc,none": right}),
                    "score": right,
                    "weight": 1.0,
                    "truncated": False,
                }
            )
        found = result_rows(Scoring(facts, [Metric("acc", "mean", True)], 1234, facts.chance), rows, None)
        store.append(rows, [row | _about(model, facts, rows, number) for row in found])


def _common(model: MadeUp, facts: TaskFacts, number: int) -> dict[str, Any]:
    template = "none" if facts.raw_text else model.template
    return {
        "model": model.key,
        "model_name": model.name,
        "task": facts.name,
        "version": "1.0",
        "num_fewshot": model.num_fewshot,
        "template": template,
        "backend": model.backend,
        "dtype": model.dtype,
        "task_key": sha256_json([facts.name, template, model.num_fewshot]),
        "cluster": None,
        "group": None,
        "language": facts.language,
        "family": facts.family,
        "created": MOMENT + 60.0 * number,
        "device": "cpu",
        "batch": "8192 tokens",
        "software": json.dumps(SOFTWARE),
        **{name: value for name, value in model.settings.items() if name in ("version", "created")},
    }


def _about(model: MadeUp, facts: TaskFacts, items: list[dict[str, Any]], number: int) -> dict[str, Any]:
    bits = " validation=runs/default/curate" if facts.family == "bits_per_byte" else ""
    common = {name: value for name, value in _common(model, facts, number).items() if name not in ("cluster", "group")}
    return common | {
        "parameters": model.parameters,
        "suite": "made-up",
        "measures": facts.measures,
        "limit": 0,
        "seed": 1234,
        "prompts_hash": prompts_hash(items),
        "dataset": facts.dataset,
        "revision": facts.revision,
        "licence": facts.licence,
        "synthetic": facts.synthetic,
        "human_reviewed": facts.human_reviewed,
        "command": f"{model.command} 'suite.tasks=[{facts.family}]' 'suite.languages=[{facts.language}]'{bits}",
        "step": None,
        **{name: value for name, value in model.settings.items() if name in ("limit", "n")},
    }
