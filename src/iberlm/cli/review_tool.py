"""`iberlm review-items`: a form for people to judge a task's items, and what becomes of the verdicts that it saves."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iberlm.core.errors import ConfigError
from iberlm.core.files import write_text

if TYPE_CHECKING:
    from iberlm.evaluate.review_agreement import Agreement, Summary


def review_items(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task with items of IberLM's own, such as reading_ca_valencia.")],
    out: Annotated[Path | None, typer.Option(help="File of the form; review-TASK.html when none is given.")] = None,
    reviewer: Annotated[str, typer.Option(help="Name or pseudonym that the form begins with.")] = "",
    record: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A file of verdicts that the form saved (again for each).")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Only say how far the review has come.")] = False,
    reviews: Annotated[Path | None, typer.Option(help="Folder of the verdicts; eval/reviews of IberLM when none is given.")] = None,
) -> None:
    """Write a form in which people review a task's items, or record the verdicts that it saved and say what they come to."""
    if record or summary:
        if out or reviewer:
            raise ConfigError(f"review-items: --{'out' if out else 'reviewer'} belongs to the form; leave it out with --record and --summary")
        _record(task, record or [], reviews)
        return
    if reviews:
        raise ConfigError("review-items: --reviews goes with --record or --summary; the form is written to --out")
    from iberlm.evaluate.review_form import review_form

    path = out or Path(f"review-{task}.html")
    write_text(path, review_form(task, reviewer=reviewer))
    print(f"wrote {path}: open it in a browser, then: iberlm review-items {task} --record FILE")


def _record(task: str, files: list[Path], reviews: Path | None) -> None:
    from iberlm.evaluate.review import record, reviews_file
    from iberlm.evaluate.review_agreement import summarise

    if files:
        found = record(task, files, reviews)
        print(f"{reviews_file(task, reviews)}: {found.new} new verdicts, {found.replaced} replaced, {found.unchanged} already there or older")
        if found.stale:
            print(f"not recorded: {found.stale} verdicts on items that have changed since the form was made; write a new form for them")
    print("\n".join(summary_lines(summarise(task, reviews))))


def summary_lines(summary: "Summary") -> list[str]:
    """What a summary says, in lines."""
    from iberlm.evaluate.review import MIN_REVIEWERS

    lines = [
        f"{summary.task}: {summary.items} items; read by anybody: {summary.read_once}, by {MIN_REVIEWERS} or more: {summary.read_twice}; "
        f"approved (called good by {MIN_REVIEWERS} or more, and by nobody anything else): {summary.approved} ({summary.approved / max(1, summary.items):.0%})"
    ]
    if summary.stale:
        lines.append(f"{summary.stale} verdicts are on items that have changed since; they do not count")
    for name, found in summary.accuracy.items():
        who = name or "all reviewers"
        lines.append(f"right answers of {who}, unaided: {found.value:.1%} ({found.low:.1%} to {found.high:.1%}), {found.n} answers")
    lines += _agreement("answers given unaided", summary.answers_agree) + _agreement("whether an item is good", summary.verdicts_agree)
    if summary.to_mend:
        lines.append(f"to mend: {len(summary.to_mend)} items")
        for item, verdicts in summary.to_mend:
            lines += [f"  {item['id']}", *(f"    {_complaint(verdict)}" for verdict in verdicts)]
    return lines


def _agreement(what: str, found: "Agreement | None") -> list[str]:
    if found is None:
        return []
    if math.isnan(found.alpha):
        return [f"agreement on {what}: all {found.items} items that several people read were judged alike, so alpha is not defined"]
    alpha = f"Krippendorff's alpha {found.alpha:.2f} ({found.low:.2f} to {found.high:.2f})"
    return [f"agreement on {what}: {alpha}, {found.share:.0%} of pairs agree, {found.items} items"]


def _complaint(verdict: dict[str, Any]) -> str:
    said = [f"{verdict['reviewer']}: {verdict['verdict'].replace('_', ' ')}"]
    if verdict["answer"] is not None:
        said.append(f"right is choice {verdict['answer']}")
    said += [f"{name}: {' '.join(verdict[name].split())}" for name in ("correction", "comment") if verdict[name]]
    return "; ".join(said)
