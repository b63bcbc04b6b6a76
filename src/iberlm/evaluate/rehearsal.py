"""Rehearses a task: renders a few items with their solved examples, and scores made-up answers with the task's own code.

What would fail after all inference fails before any.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from iberlm.evaluate.catalogue import TaskFacts

_ITEMS = 4
"""Items that are rehearsed, from the first to the last; metrics of a whole corpus want more than one."""
_CHOICE_ITEMS = 40
_CHANCE_TOLERANCE = 0.01
_ROLLING = "loglikelihood_rolling"
_SOME_TEXT = "1"
"""A made-up answer that is neither right nor empty."""


@dataclass(frozen=True)
class Findings:
    """What is wrong with a task: problems, with which it cannot be asked, and remarks."""

    problems: list[str]
    remarks: list[str]


Length = Callable[[str], float]


def rehearse(task: Any, facts: TaskFacts, shots: int, context: int | None, length: Length) -> Findings:
    """Try a built lm-eval task with `shots` solved examples. `context` is the model's, in tokens; `length` counts those of a text."""
    docs = task.eval_docs
    found = Findings([], [])
    if facts.items is not None and len(docs) != facts.items:
        found.remarks.append(f"has {len(docs):,} items, and the catalogue says {facts.items:,}: its data are another version, or the catalogue is wrong")
    for key, kind in ((facts.cluster, "cluster"), (facts.group, "group")):
        if key and key not in docs[0]:
            found.remarks.append(f"its records have no '{key}', which the catalogue names as their {kind}: {', '.join(docs[0])}")
    found.remarks.extend(_chance(task, facts, docs))
    found.problems.extend(_too_few_examples(task, shots))
    if found.problems:
        return found
    numbers = sorted({round(place * (len(docs) - 1) / (_ITEMS - 1)) for place in range(_ITEMS)})
    try:
        prompts = {number: _rendered(task, docs[number], shots) for number in numbers}
    except Exception as error:  # templates and functions of a task raise what they like
        found.problems.append(f"its items cannot be rendered with {shots} solved examples ({type(error).__name__}: {error})")
        return found
    found.problems.extend(_scored(task, facts, docs, prompts))
    if not found.problems:
        _right_answers(task, docs, found)
    if context is not None and _answer_tokens(task) >= context:
        found.problems.append(f"asks for answers of {_answer_tokens(task)} tokens, and the model's context has {context}; leave it out of suite.tasks")
    elif context is not None and task.OUTPUT_TYPE != _ROLLING:  # documents are scored in windows
        found.remarks.extend(_too_long(task, docs, shots, context, length))
    return found


def _chance(task: Any, facts: TaskFacts, docs: Any) -> Iterator[str]:
    if task.OUTPUT_TYPE != "multiple_choice" or task.get_config("process_results") or facts.chance is None or not facts.metric.startswith("acc"):
        return
    try:
        counts = [len(task.doc_to_choice(docs[number])) for number in _spread(docs)]
    except Exception:  # told by `_right_answers`
        return
    found = sum(1 / count for count in counts) / len(counts)
    if abs(found - facts.chance) > _CHANCE_TOLERANCE and task.multiple_target == 0:
        numbers = f"{min(counts)} to {max(counts)}" if min(counts) != max(counts) else f"{counts[0]}"
        yield f"guessing among its {numbers} choices scores {found:.3f}, and the catalogue says {facts.chance:.3f}"


def _right_answers(task: Any, docs: Any, found: Findings) -> None:
    """Items whose right answer is none of their choices: lm-eval scores them 0, whatever the model answers."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.get_config("process_results"):
        return
    numbers = _spread(docs)
    wrong: list[tuple[Any, Sequence[Any]]] = []
    for number in numbers:
        try:
            choices = task.doc_to_choice(docs[number])
            right = task.doc_to_text(docs[number]) if task.multiple_input else task.doc_to_target(docs[number])
        except Exception as error:  # as with any template or function of a task
            found.problems.append(f"the right answer of its item {number} cannot be found ({type(error).__name__}: {error})")
            return
        # one of several that lm-eval cannot place leaves the others right
        if not any(_is_choice(entry, choices) for entry in (right if isinstance(right, list) else [right])):
            wrong.append((right, choices))
    if not wrong:
        return
    right, choices = wrong[0]
    text = (
        f"the right answer of {len(wrong)} of {len(numbers)} items that were looked at is none of their choices, and would be scored as wrong: "
        f"'{right}' with the choices {', '.join(str(choice)[:20] for choice in choices)}"
    )
    (found.problems if 2 * len(wrong) >= len(numbers) else found.remarks).append(text)


def _spread(docs: Any) -> list[int]:
    """Places of items from the first to the last."""
    return sorted({round(place * (len(docs) - 1) / (_CHOICE_ITEMS - 1)) for place in range(_CHOICE_ITEMS)})


def _is_choice(right: Any, choices: Sequence[Any]) -> bool:
    """Whether lm-eval finds a right answer, a text or the place of one, among the choices."""
    return right in (choices if isinstance(right, str) else range(len(choices)))


def _too_few_examples(task: Any, shots: int) -> Iterator[str]:
    if not shots:
        return
    same = task.fewshot_cfg.split == task.config.test_split  # then lm-eval draws one more: the item itself may be among them
    there = len(task.sampler.df)
    if there < shots + same:
        yield f"has {there} solved examples, and {shots} are asked for; set num_fewshot={max(there - same, 0)}"


def _rendered(task: Any, doc: dict[str, Any], shots: int) -> Any:
    """What stands before the answer: a text, or for tasks whose choices stand there one for each choice."""
    return task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))


def _scored(task: Any, facts: TaskFacts, docs: Any, prompts: dict[int, Any]) -> Iterator[str]:
    """Score made-up answers: the right one, none, and another. Nothing is yielded where all goes well."""
    values: dict[tuple[str, str], list[Any]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metrics that see one class only
            for number, prompt in prompts.items():
                for answer in _answers(task, docs[number]):
                    for key, value in _values(task, docs[number], number, prompt, answer):
                        values.setdefault(key, []).append(value)
            aggregations = task.aggregation()
            for (metric, _), entries in values.items():
                if not isinstance(result := aggregations[metric](entries) if metric in aggregations else _mean(entries), Real):
                    yield f"its metric '{metric}' gives {type(result).__name__} '{result}', not a number"
    except Exception as error:  # so do metrics
        yield f"cannot be scored ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        return
    names = {f"{metric},{name}" for metric, name in values}
    if (facts.metric if "," in facts.metric else f"{facts.metric},none") not in names:
        shown = ", ".join(sorted(name.removesuffix(",none") for name in names))
        yield f"has no metric '{facts.metric}', which the catalogue names as the primary one; it has {shown}"


def _mean(values: list[Any]) -> float:
    return float(sum(values) / len(values))


def _answers(task: Any, doc: dict[str, Any]) -> list[Any]:
    """Made-up answers of a model: a number in place of a likelihood, or texts."""
    if task.OUTPUT_TYPE != "generate_until":
        return [-1.0]
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = target[0] if target else ""
    if isinstance(target, int) and task.get_config("doc_to_choice") is not None:
        target = task.doc_to_choice(doc)[target]
    return [str(target), "", _SOME_TEXT]


def _values(task: Any, doc: dict[str, Any], number: int, prompt: Any, answer: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """What the task's metrics give for one item, by metric and filter."""
    made = task.construct_requests(doc=doc, ctx=prompt, metadata=(task.config.task, number, task.config.repeats), apply_chat_template=False, chat_template=None)
    requests = made if isinstance(made, list) else [made]
    for index, request in enumerate(requests):
        kind = request.request_type
        response = (answer - index, False) if kind == "loglikelihood" else answer
        request.resps = [response] * task.config.repeats
    task._instances = requests
    task.apply_filters()
    for name in requests[0].filtered_resps:
        for metric, value in task.process_results(doc, [request.filtered_resps[name] for request in requests]).items():
            yield (metric, name), value


def _too_long(task: Any, docs: Any, shots: int, context: int, length: Length) -> Iterator[str]:
    doc = docs[_longest(docs)]
    prompt = _rendered(task, doc, shots)
    texts = [prompt] if isinstance(prompt, str) else prompt
    answer = 0.0
    if task.OUTPUT_TYPE == "generate_until":
        answer = float(_answer_tokens(task))
    elif task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input:
        answer = max(length(choice) for choice in task.doc_to_choice(doc))
    needed = max(length(text) for text in texts) + answer
    if needed > context:
        fewer = f"; fewer solved examples than {shots} shorten it" if shots else ""
        yield f"its longest item has some {needed:,.0f} tokens, and the model's context {context:,}: the beginning of such items is cut off{fewer}"


def _answer_tokens(task: Any) -> int:
    """How many tokens may be generated; 0 where nothing is."""
    if task.OUTPUT_TYPE != "generate_until":
        return 0
    settings = task.get_config("generation_kwargs") or {}
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # as lm-eval takes them
    return int(next((settings[name] for name in names if name in settings), 256))  # lm-eval's default


def _longest(docs: Any) -> int:
    """Place of the item with the most text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table: pa.Table = docs.with_format("arrow")[:]
    lengths = None
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            sizes = pc.fill_null(pc.cast(pc.binary_length(column), pa.int64()), 0)
            lengths = sizes if lengths is None else pc.add(lengths, sizes)
    return 0 if lengths is None else int(pc.index(lengths, pc.max(lengths)).as_py())


def token_counter(folder: Path | None) -> Length:
    """Counts the tokens of a text: with the model's tokenizer.json; at three bytes a token, as many as a good tokenizer makes of our languages, without."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return lambda text: len(text.encode()) / 3
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text).ids)
