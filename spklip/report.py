"""One self-contained HTML page for a run: tables, curves, confusion matrix, intervals.

The page is made from ``metrics.json`` alone, so an old run can be drawn again.
"""

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

TITLES = {
    "spklip": "SPKLIP",
    "mean_rate": "Mean-rate image, logistic regression",
    "histogram": "Firing-rate histogram, logistic regression",
    "chance": "Chance",
}
"""What the rows of a table are called."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } .small { color: #555; font-size: .9rem }
svg { max-width: 100%; height: auto } pre { background: #f5f5f5; padding: .8rem; overflow-x: auto }
"""


def render_report(metrics: Mapping[str, Any]) -> str:
    """The page, as HTML text, of one run's metrics (the content of ``metrics.json``)."""
    parts = [
        f"<h1>{html.escape(metrics['name'])}</h1>",
        _overview(metrics),
        _closed_set(metrics),
        _few_shot(metrics["few_shot"]),
        _retrieval(metrics["retrieval"]),
        *_by_class(metrics),
        _training(metrics["train"]),
        "<h2>Recipe</h2>",
        f"<pre>{html.escape(yaml.safe_dump(metrics['recipe'], sort_keys=False))}</pre>",
        _paragraph("Versions: " + ", ".join(f"{k} {v}" for k, v in metrics["versions"].items())),
    ]
    title = html.escape(metrics["name"])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _by_class(metrics: Mapping[str, Any]) -> list[str]:
    if "skipped" in metrics["closed_set"]:
        return []
    return [_confusion(metrics["closed_set"]["spklip"]), _per_class(metrics)]


def summary_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Closed-set and k-shot top-1 of the model, the baselines and chance.

    Returns:
        rows: (title, closed-set top-1, k-shot top-1 in the order of ``few_shot["shots"]``).
    """
    few, closed = metrics["few_shot"], metrics["closed_set"]
    if "skipped" in closed:
        return []
    rows = []
    for name in (name for name in TITLES if name in closed and name != "chance"):
        shots = few.get("top1", {}).get(name, {})
        by_shots = [_estimate(shots[k]) if k in shots else "" for k in few.get("shots", [])]
        rows.append((TITLES[name], _estimate(closed[name]["top1"]), by_shots))
    uniform = f"{closed['chance']['uniform_top1']:.1%}"
    by_shots = [f"{few['chance']:.1%}" for _ in few.get("shots", [])]
    return [*rows, (TITLES["chance"], uniform, by_shots)]


def summary_table(metrics: Mapping[str, Any]) -> str:
    """The report's first table as plain text, and what was left out; else the retrieval."""
    few = metrics["few_shot"]
    if "skipped" in metrics["closed_set"]:
        return _retrieval_lines(metrics)
    heads = ["", "closed set, top-1"] + [_shot_head(few, k) for k in few.get("shots", [])]
    table = [heads] + [[title, closed, *shots] for title, closed, shots in summary_rows(metrics)]
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    if "skipped" in few:
        lines.append(f"k-shot episodes: not done: {few['skipped']}")
    return "\n".join(lines)


def _retrieval_lines(metrics: Mapping[str, Any]) -> str:
    lines = [f"closed set, k-shot: not done: {metrics['closed_set']['skipped']}"]
    for way, title in (("text_to_video", "text to video"), ("video_to_text", "video to text")):
        found = metrics["retrieval"][way]
        recalls = ", ".join(f"{name} {share:.1%}" for name, share in found["recall"].items())
        lines.append(f"{title}: {recalls}, median rank {found['median_rank']:g}")
    return "\n".join(lines)


def _overview(metrics: Mapping[str, Any]) -> str:
    data, train = metrics["data"], metrics["train"]
    lines = [
        f"{data['train_clips']} training clips, {data['test_clips']} test clips, "
        f"{len(data['per_class'])} classes, from {data['path']}.",
        f"{train['parameters']:,} parameters; {train['steps']} steps of "
        f"{train['batch_size']} clips on {train['device']} ({train['precision']}), "
        f"{train['seconds']:.0f} s; evaluation {metrics['evaluation_seconds']:.0f} s.",
    ]
    few = metrics["few_shot"]
    heads = ["", "closed set, top-1"] + [_shot_head(few, k) for k in few.get("shots", [])]
    rows = [[title, closed, *shots] for title, closed, shots in summary_rows(metrics)]
    table = _table(heads, rows) if rows else ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in metrics["notes"])
    return (
        "".join(map(_paragraph, lines))
        + table
        + _paragraph("In brackets: 95% intervals; how each is made is told in its section.", True)
        + (f"<ul>{notes}</ul>" if notes else "")
    )


def _shot_head(few: Mapping[str, Any], k: str) -> str:
    return f"{few['ways']}-way {k}-shot" if k != "0" else f"{few['ways']}-way, text only"


def _closed_set(metrics: Mapping[str, Any]) -> str:
    closed = metrics["closed_set"]
    if "skipped" in closed:
        return "<h2>Closed set</h2>" + _paragraph(f"Not done: {closed['skipped']}.")
    rows = []
    for name in (name for name in TITLES if name in closed and name != "chance"):
        row = closed[name]
        top5 = "" if row["top5"] is None else f"{row['top5']:.1%}"
        rows.append([TITLES[name], _estimate(row["top1"]), top5, f"{row['mean_class_top1']:.1%}"])
    chance = closed["chance"]
    uniform5 = f"{chance['uniform_top5']:.1%}" if closed["spklip"]["top5"] is not None else ""
    uniform = f"{chance['uniform_top1']:.1%}"
    rows.append(["Chance: a uniform guess", uniform, uniform5, uniform])
    common = f"{chance['commonest_class_top1']:.1%}"
    rows.append(["Always the commonest training class", common, "", uniform])
    return (
        "<h2>Closed set</h2>"
        + _paragraph(
            f"Each of {closed['spklip']['clips']} test clips against the text of all "
            f"{len(closed['spklip']['class_names'])} classes. Interval: bootstrap over groups of "
            "clips that share a scene. A tie counts as wrong."
        )
        + _table(["", "top-1", "top-5", "mean over classes"], rows)
        + _paragraph(f"On the training clips themselves: top-1 {metrics['train_top1']:.1%}.", True)
    )


def _few_shot(few: Mapping[str, Any]) -> str:
    if "skipped" in few:
        return "<h2>k-shot episodes</h2>" + _paragraph("Not done: " + few["skipped"] + ".")
    text = (
        f"{few['episodes']} episodes of {few['ways']} classes out of {len(few['classes'])} "
        f"({', '.join(few['classes'])}); support from the training split, {few['queries']} "
        "queries a class from the test split. A linear classifier on frozen features, started at "
        "(and kept near) the class texts; the baselines' starts at 0. "
        f"{few['seen_in_training']}"
    )
    if few["left_out"]:
        text += " Too few clips, left out: " + ", ".join(few["left_out"]) + "."
    heads = [""] + [_shot_head(few, k) for k in few["shots"]]
    rows = []
    for name, by_shots in few["top1"].items():
        groups = few["by_group"][name]
        rows.append([TITLES[name], *_cells(by_shots, few["shots"])])
        rows.append(["… interval over test groups", *_cells(groups, few["shots"])])
    rows.append([TITLES["chance"]] + [f"{few['chance']:.1%}"] * len(few["shots"]))
    return (
        "<h2>k-shot episodes</h2>"
        + _paragraph(text)
        + _table(heads, rows)
        + _paragraph(
            "First interval: mean over episodes, ±1.96 standard errors; it shrinks with more "
            "episodes. Second: test groups resampled; it tells how far other test scenes could "
            "move the mean, and is the one to compare by.",
            True,
        )
        + _few_shot_figure(few)
    )


def _cells(by_shots: Mapping[str, Any], shots: Sequence[str]) -> list[str]:
    return [_estimate(by_shots[k]) if k in by_shots else "" for k in shots]


def _retrieval(both: Mapping[str, Any]) -> str:
    rows = []
    for name, title in (("text_to_video", "Text to video"), ("video_to_text", "Video to text")):
        row = both[name]
        recall = [f"{row['recall'][key]:.1%}" for key in ("R@1", "R@5", "R@10")]
        right = f"{row['right_per_query']:.1f} of {row['gallery']}"
        rows.append([title, row["queries"], *recall, f"{row['median_rank']:g}", right])
    heads = ["", "queries", "R@1", "R@5", "R@10", "median rank", "right answers"]
    return (
        "<h2>Retrieval</h2>"
        + _paragraph(
            "Over the test clips and their distinct captions. A caption shared by several clips, "
            "as all clips of a class share those made from its name, is answered by any of them: "
            "mind the number of right answers when comparing with other data sets."
        )
        + _table(heads, rows)
    )


def _per_class(metrics: Mapping[str, Any]) -> str:
    judged = metrics["closed_set"]["spklip"]["per_class"]
    rows = []
    for name, count in metrics["data"]["per_class"].items():
        share = judged.get(name)
        shown = "" if share is None else _estimate(share | {"value": share["top1"]})
        rows.append([name, count["train"], count["test"], shown])
    return (
        "<h2>Classes</h2>"
        + _table(["", "training clips", "test clips", "top-1"], rows)
        + _paragraph("Interval: Wilson, over clips.", True)
    )


def _training(train: Mapping[str, Any]) -> str:
    curve = train["curve"]
    return "<h2>Training</h2>" + (_curve_figure(curve) if curve else _paragraph("Nothing logged."))


def _estimate(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def _paragraph(text: str, small: bool = False) -> str:
    return f"<p{' class=small' if small else ''}>{html.escape(text)}</p>"


def _table(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415  # half a second, for reports alone

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    from matplotlib import rc_context  # noqa: PLC0415  # half a second, for reports alone

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "spklip"}):  # the same metrics draw the same bytes
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def _curve_figure(curve: Sequence[Mapping[str, float]]) -> str:
    figure, loss = _figure(8, 3)
    step = [point["step"] for point in curve]
    loss.plot(step, [point["loss"] for point in curve], color="tab:blue")
    loss.set(xlabel="step", ylabel="contrastive loss", ylim=(0, None))
    match = loss.twinx()
    match.plot(step, [point.get("batch_match", float("nan")) for point in curve], "tab:orange")
    match.set(ylabel="match within the batch", ylim=(0, 1.02))
    return _svg(figure)


def _few_shot_figure(few: Mapping[str, Any]) -> str:
    figure, axes = _figure(8, 3.2)
    for shift, (name, by_shots) in enumerate(few["by_group"].items()):
        x = [few["shots"].index(k) + 0.08 * (shift - 1) for k in by_shots]
        y = [point["value"] for point in by_shots.values()]
        spans = [
            (max(0.0, p["value"] - p["low"]), max(0.0, p["high"] - p["value"]))
            for p in by_shots.values()
        ]
        axes.errorbar(x, y, list(zip(*spans, strict=True)), marker="o", label=TITLES[name])
    axes.axhline(few["chance"], color="gray", linestyle=":", label=TITLES["chance"])
    axes.set_xticks(range(len(few["shots"])), few["shots"])
    axes.set(xlabel="shots a class", ylabel="top-1, interval over test groups", ylim=(0, 1.02))
    axes.legend(fontsize="small")
    return _svg(figure)


def _confusion(closed: Mapping[str, Any]) -> str:
    names, counts = closed["class_names"], closed["confusion"]
    size = min(12.0, 2.5 + 0.32 * len(names))
    figure, axes = _figure(size + 1, size)
    axes.imshow(counts, cmap="Blues")
    axes.set(xlabel="answer", ylabel="true class")
    if len(names) <= 60:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= 30:
        darkest = max(max(row) for row in counts)
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                color = "white" if count > darkest / 2 else "black"
                if count:
                    axes.text(j, i, count, ha="center", va="center", fontsize=8, color=color)
    return "<h2>Confusion</h2>" + _svg(figure)
