"""What the model learnt by heart: canaries that were planted in its training data, by how often it read them. Part of the section on training."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from iberlm.report.blocks import Block, Cell, Chart, Column, Facts, Heading, Remark, Table
from iberlm.report.charts import NARROW, WIDE
from iberlm.report.run_folder import RunFolder
from iberlm.report.svg import COLOURS, render
from iberlm.report.wording import NONE, decimal, dig, mapping, percent, real, whole

FILE = "memorisation.json"


@dataclass(frozen=True)
class _Group:
    """The canaries that were planted equally often, 0 for those that never were."""

    repetitions: float
    canaries: float | None
    exact: float | None
    longest: float | None
    right: float | None
    loss: float | None
    exposure: float | None

    @classmethod
    def of(cls, entry: Any) -> "_Group | None":
        keys = ("canaries", "exact", "longest_common_tokens", "right_tokens", "loss", "exposure_bits")
        repetitions = real(dig(entry, "repetitions"))
        return None if repetitions is None or repetitions < 0 else cls(repetitions, *(real(dig(entry, key)) for key in keys))


def memorisation(run: RunFolder) -> list[Block]:
    """Heading, settings, curve and table of the extraction test; nothing when the run planted no canaries."""
    manifest = run.get("pretrain")
    if manifest is None or not real(dig(manifest.config, "canaries", "canaries_each")):
        return []
    blocks: list[Block] = [Heading("Memorisation")]
    found, problem = run.read_json("pretrain", FILE)
    results = dig(found, "results")
    groups = [group for entry in results if (group := _Group.of(entry))] if isinstance(results, list) else []
    if not groups:
        return [*blocks, Remark(problem or f"The file {FILE} has no results.", missing=True)]
    groups.sort(key=lambda group: group.repetitions)
    blocks.append(Facts(_facts(manifest.config, mapping(found))))
    if any(group.repetitions for group in groups):
        blocks.append(_chart(groups, real(dig(found, "suffix_tokens"))))
    return [*blocks, _table(groups), Remark(_verdict(groups))]


def _facts(config: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, str]]:
    prefix, suffix, each = (whole(found.get(key)) for key in ("prefix_tokens", "suffix_tokens", "canaries_each"))
    k = real(dig(config, "objective", "goldfish_k"))
    goldfish = f"one target in {whole(k)} is left out, by the {whole(dig(config, 'objective', 'goldfish_context'))} tokens before it" if k else "off"
    return [
        ("Canaries", f"{each} of random tokens for each number of repetitions, {each} never planted"),
        ("Test", f"{prefix} tokens are given, the next {suffix} are asked for"),
        ("Tokens planted", whole(found.get("planted_tokens"))),
        ("Goldfish loss", goldfish),
    ]


def _verdict(groups: list[_Group]) -> str:
    known = [group.repetitions for group in groups if group.repetitions and group.exact]
    how = (
        "Canaries are random, so that what comes out of them was learnt by heart. Exposure counts the bits by which a canary is better known than those never "
        "planted; it cannot be more than their number allows."
    )
    if not known:
        return f"No canary came out whole. {how}"
    return f"Canaries came out whole from {whole(min(known))} {'repetition' if min(known) == 1 else 'repetitions'} on. {how}"


def _share(value: float | None) -> str:
    return NONE if value is None else percent(value, 1)


def _table(groups: list[_Group]) -> Table:
    names = ("Canaries", "Repeated whole", "Longest common run (tokens)", "Right next token", "Loss (nats a token)", "Exposure (bits)")
    rows = []
    for group in groups:
        head = Cell("never planted" if not group.repetitions else "once" if group.repetitions == 1 else f"{whole(group.repetitions)} times")
        texts = (
            whole(group.canaries),
            _share(group.exact),
            decimal(group.longest, 1),
            _share(group.right),
            decimal(group.loss, 2),
            decimal(group.exposure, 1),
        )
        shares = (None, group.exact, None, group.right, None, None)
        rows.append([head, *(Cell(text, number=True, share=share) for text, share in zip(texts, shares, strict=True))])
    return Table("What was learnt by heart, by repetitions", [Column("Planted"), *(Column(name, number=True) for name in names)], rows)


def _chart(groups: list[_Group], suffix: float | None) -> Chart:
    """Share repeated whole and longest common run by repetitions, which are doubled from mark to mark; the control is a line."""
    control = next((group for group in groups if not group.repetitions), None)
    panels = [
        ("Repeated whole", [(group.repetitions, group.exact) for group in groups], control.exact if control else None, 1.0),
        ("Longest common run (tokens)", [(group.repetitions, group.longest) for group in groups], control.longest if control else None, suffix),
    ]

    def paint(figure: Figure, wide: bool) -> None:
        drawn = figure.subplots(*((1, 2) if wide else (2, 1)))
        for axes, (title, points, never, most) in zip(drawn, panels, strict=True):
            _panel(axes, title, [(x, y) for x, y in points if x and y is not None], never, most)
        drawn[0].set_yticks([0, 0.25, 0.5, 0.75, 1])
        drawn[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        handles, names = drawn[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2, borderpad=0, columnspacing=1.4, handlelength=1.8)

    planted = [group for group in groups if group.repetitions]
    said = ", ".join(f"{whole(group.repetitions)} times {_share(group.exact)} and {decimal(group.longest, 1)} tokens" for group in planted)
    label = f"Share of canaries that the model repeats whole, and longest run of tokens in common, by how often they were planted: {said}."
    wide = render("memorisation-w", label, WIDE, 260, lambda figure: paint(figure, True))
    narrow = render("memorisation-n", label, NARROW, 440, lambda figure: paint(figure, False))
    return Chart("What the model knows by heart, by how often it read it", label, wide, narrow)


def _panel(axes: Axes, title: str, points: list[tuple[float, float]], never: float | None, most: float | None) -> None:
    places = [x for x, _ in points]
    axes.set_xscale("log", base=2)
    if never is not None:
        axes.axhline(never, color=COLOURS["ink"], linewidth=1.5, linestyle=(0, (4, 3)), label="never planted")
    axes.plot(places, [y for _, y in points], "o-", color=COLOURS["accent"], linewidth=2.2, markersize=7, clip_on=False, label="planted")
    axes.set_title(title)
    axes.set_xlabel("times in the training data")
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 8, 10], integer=True))
    top = most or max((y for _, y in points), default=1) or 1
    axes.set_ylim(-0.06 * top, 1.06 * top)  # room for marks on the line of 0
