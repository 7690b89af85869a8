"""One self-contained HTML page for a run: tables, curves, confusion matrix, intervals.

The page is made from ``metrics.json`` alone, so an old run can be drawn again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from spikedata import Page, new_figure, printable
from spklip.columns import aligned
from spklip.energy_report import add_energy, add_energy_against_accuracy, energy_line, energy_of

TITLES = {
    "spklip": "SPKLIP",
    "tower": "Frozen image tower, time as colour, logistic regression",
    "conv3d": "3-D CNN on spike counts",
    "tower_tfp": "Frozen image tower, TFP, logistic regression",
    "tower_tfi": "Frozen image tower, TFI, logistic regression",
    "mean_rate": "Mean-rate image, logistic regression",
    "histogram": "Firing-rate histogram, logistic regression",
    "intervals": "Inter-spike intervals, logistic regression",
    "chance": "Chance",
}
"""What the rows of a table are called."""


MOST_OF_NAME = 60
"""Letters of a class's name in a figure."""
ORDER_TITLES = {"shuffled": "windows shuffled", "reversed": "played backwards"}


def render_report(metrics: Mapping[str, Any]) -> str:
    """The page, as HTML text, of one run's metrics (the content of ``metrics.json``)."""
    page = Page(metrics["name"])
    _overview(page, metrics)
    _closed_set(page, metrics)
    _order(page, metrics["order"])
    _directions(page, metrics["directions"])
    _few_shot(page, metrics["few_shot"])
    _unseen(page, metrics["unseen"])
    _retrieval(page, metrics["retrieval"])
    if "skipped" not in metrics["closed_set"]:
        _confusion(page, metrics["closed_set"]["spklip"])
        _per_class(page, metrics)
        _calibration(page, metrics["calibration"])
    _training(page, metrics["train"])
    add_energy(page, energy_of(metrics))
    add_energy_against_accuracy(page, metrics)
    page.heading("Recipe")
    page.code(yaml.safe_dump(metrics["recipe"], sort_keys=False))
    page.text("Versions: " + ", ".join(f"{k} {v}" for k, v in metrics["versions"].items()))
    return page.render()


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
        shots = few.get("by_group", {}).get(name, {})
        by_shots = [_estimate(shots[k]) if k in shots else "" for k in few.get("shots", [])]
        rows.append((TITLES[name], _estimate(closed[name]["top1"]), by_shots))
    uniform = f"{closed['chance']['uniform_top1']:.1%}"
    by_shots = [f"{few['chance']:.1%}" for _ in few.get("shots", [])]
    return [*rows, (TITLES["chance"], uniform, by_shots)]


def summary_table(metrics: Mapping[str, Any]) -> str:
    """The report's first table as plain text, and what was left out; else the retrieval."""
    few = metrics["few_shot"]
    if "skipped" in metrics["closed_set"]:
        return "\n".join([_retrieval_lines(metrics), *_idle_lines(metrics)])
    heads = ["", "closed set, top-1"] + [_shot_head(few, k) for k in few.get("shots", [])]
    table = [heads] + [[title, closed, *shots] for title, closed, shots in summary_rows(metrics)]
    lines = aligned(table)
    if "skipped" in few:
        lines.append(f"k-shot episodes: not done: {few['skipped']}")
    lines += [*_order_lines(metrics), *_unseen_lines(metrics), *_idle_lines(metrics)]
    lines.append(energy_line(energy_of(metrics)))
    return "\n".join(line for line in lines if line)


IDLE_SHARE = 0.1
"""From this share on, that steps wait for clips is worth a remedy."""


def _idle_lines(metrics: Mapping[str, Any]) -> list[str]:
    """How long steps waited for clips, and what helps if that was long; nothing without steps."""
    train, workers = metrics["train"], metrics["recipe"]["data"]["workers"]
    share = train.get("loader_idle_share")  # of older runs nobody knows
    if share is None:
        return []
    if train["features_kept"]:
        return [f"{share:.0%} of training went by while steps waited for kept features"]
    line = f"{share:.0%} of training went by while steps waited for clips"
    if share < IDLE_SHARE:
        return [line]
    more = f"raise data.workers (now {workers}), up to the cores of this machine, to read ahead"
    return [f"{line}: {more}"]


def _order_lines(metrics: Mapping[str, Any]) -> list[str]:
    told = [
        f"{ORDER_TITLES[name]}: {_estimate(one['top1'])}" for name, one in metrics["order"].items()
    ]
    lines = ["SPKLIP where time is not its own: " + "; ".join(told)] if told else []
    directions = metrics["directions"]
    if "skipped" not in directions:
        rows = (f"{title}: {_estimate(one)}" for title, one in _direction_rows(directions))
        lines.append("four directions of motion, which order alone tells: " + "; ".join(rows))
    return lines


def _direction_rows(directions: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    titles = TITLES | ORDER_TITLES
    return [(titles[name], one) for name, one in directions["top1"].items()]


def _unseen_lines(metrics: Mapping[str, Any]) -> list[str]:
    unseen = metrics["unseen"]
    if "skipped" in unseen:
        return []
    zero, few = unseen["zero_shot"], unseen["few_shot"]
    lines = [
        f"classes kept out of training ({len(unseen['draws'])} draws): by name alone "
        f"{_estimate(zero['top1'])}, chance {zero['chance']:.1%}"
    ]
    if "skipped" not in few:
        shown = ", ".join(
            f"{few['ways']}-way {k}-shot {_estimate(few['by_group']['spklip'][k])}"
            for k in few["shots"]
            if k != "0"
        )
        lines.append(f"the same, by a few clips: {shown}")
    return lines


def _retrieval_lines(metrics: Mapping[str, Any]) -> str:
    lines = [f"closed set, k-shot: not done: {metrics['closed_set']['skipped']}"]
    for way, title in (("text_to_video", "text to video"), ("video_to_text", "video to text")):
        found = metrics["retrieval"][way]
        recalls = ", ".join(f"{name} {share:.1%}" for name, share in found["recall"].items())
        lines.append(f"{title}: {recalls}, median rank {found['median_rank']:g}")
    lines.append(energy_line(energy_of(metrics)))
    return "\n".join(line for line in lines if line)


def _overview(page: Page, metrics: Mapping[str, Any]) -> None:
    data, train = metrics["data"], metrics["train"]
    lines = [
        f"{data['train_clips']} training clips, {data['test_clips']} test clips, "
        f"{len(data['per_class'])} classes, from {data['path']}.",
        f"{train['parameters']:,} parameters; {train['steps']} steps of "
        f"{_batches(train)}{train['batch_size']} clips on {train['device']} "
        f"({train['precision']}), {train['seconds']:.0f} s for {max(1, train['trainings'])} "
        f"trainings; evaluation {metrics['evaluation_seconds']:.0f} s.",
        *(f"{line}." for line in _idle_lines(metrics)),
    ]
    few = metrics["few_shot"]
    heads = ["", "closed set, top-1"] + [_shot_head(few, k) for k in few.get("shots", [])]
    rows = [[title, closed, *shots] for title, closed, shots in summary_rows(metrics)]
    for line in lines:
        page.text(line)
    page.table(heads, rows)
    page.text("In brackets: 95% intervals; how each is made is told in its section.", small=True)
    page.items(metrics["notes"])


def _batches(train: Mapping[str, Any]) -> str:
    """How many batches a step has, where it has several."""
    several = train.get("accumulate", 1)
    return f"{several} batches of " if several > 1 else ""


def _shot_head(few: Mapping[str, Any], k: str) -> str:
    return f"{few['ways']}-way {k}-shot" if k != "0" else f"{few['ways']}-way, text only"


def _closed_set(page: Page, metrics: Mapping[str, Any]) -> None:
    closed = metrics["closed_set"]
    page.heading("Closed set")
    if "skipped" in closed:
        page.text(f"Not done: {closed['skipped']}.")
        return
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
    answered, pooled = closed["spklip"]["clips"], metrics["pooled"]
    trainings = len(pooled["trainings"])
    several = f" ({pooled['different_clips']} clips, {trainings} trainings)" * (trainings > 1)
    page.text(
        f"Each of {answered} test clips{several} against the text of all "
        f"{len(closed['spklip']['class_names'])} classes. Interval: bootstrap over "
        f"{pooled['scenes']} groups of clips that share a scene. A tie counts as wrong."
    )
    page.table(["", "top-1", "top-5", "mean over classes"], rows)
    differences = [[TITLES[name], _difference(one)] for name, one in metrics["differences"].items()]
    page.text("SPKLIP's top-1 less that of each baseline, on the same clips (paired, by scene):")
    page.table(["", "points"], differences)
    page.text(f"On the training clips themselves: top-1 {metrics['train_top1']:.1%}.", small=True)


def _order(page: Page, order: Mapping[str, Any]) -> None:
    """What is left of the model's answers where time is not the clips' own."""
    page.heading("Order in time")
    if "skipped" in order or not order:
        page.text("Not done: clips of one window, or no classes.")
        return
    page.text(
        "The same test clips with their windows in another order, and played backwards. Where "
        "order tells classes apart, these fall; where they do not, the model read pictures alone."
    )
    rows = [
        [
            ORDER_TITLES[name],
            _estimate(one["top1"]),
            _difference(one["difference"]),
            f"{one['other_answers']:.1%}",
        ]
        for name, one in order.items()
    ]
    page.table(["", "top-1", "points lost or won", "other answers"], rows)


def _directions(page: Page, directions: Mapping[str, Any]) -> None:
    """Whether a model built alike reads order where nothing else tells classes apart."""
    page.heading("Where order alone tells")
    if "skipped" in directions:
        page.text(f"Not done: {directions['skipped']}.")
        return
    page.text(
        f"A model built by the same recipe, after {directions['steps']} steps on "
        f"{directions['train_clips']} drawn clips of things that move left, right, up or down. "
        "Every track is run both ways over the same ground: no picture without time tells them "
        f"apart. {directions['test_clips']} test clips, {directions['scenes']} other scenes; "
        f"chance is {directions['chance']:.0%}. Of the clips played backwards, "
        f"{directions['opposite']:.0%} are named by where they then go. If the model is near "
        "chance here, it cannot be trusted to read order above either."
    )
    rows = [[title, _estimate(one)] for title, one in _direction_rows(directions)]
    page.table(["", "top-1"], rows)


def _unseen(page: Page, unseen: Mapping[str, Any]) -> None:
    page.heading("Classes kept out of training")
    if "skipped" in unseen:
        page.text(f"Not done: {unseen['skipped']}.")
        return
    zero, few = unseen["zero_shot"], unseen["few_shot"]
    page.text(
        f"{len(unseen['draws'])} further trainings, each without some classes, judged on those. By "
        "their names alone, and, as control, with the names dealt at random among them:"
    )
    page.table(
        ["", "top-1"],
        [
            ["SPKLIP, by name", _estimate(zero["top1"])],
            ["names dealt at random", f"{zero['names_dealt_at_random']:.1%}"],
            ["Chance", f"{zero['chance']:.1%}"],
        ],
    )
    page.items(
        f"{', '.join(draw)}: {share:.1%}"
        for draw, share in zip(unseen["draws"], zero["by_draw"], strict=True)
    )
    if "skipped" in few:
        page.text(f"k-shot episodes: not done: {few['skipped']}.")
        return
    page.text("By a few clips of each; interval over scenes, mean over draws:")
    rows = [[TITLES[n], *_cells(few["by_group"][n], few["shots"])] for n in few["by_group"]]
    rows.append([TITLES["chance"]] + [f"{few['chance']:.1%}"] * len(few["shots"]))
    page.table([""] + [_shot_head(few, k) for k in few["shots"]], rows)


def _calibration(page: Page, told: Mapping[str, Any]) -> None:
    """Confidence against accuracy: a model that knows what it knows lies on the diagonal."""
    page.heading("Calibration")
    page.text(
        f"Expected calibration error of SPKLIP's confidence: {told['ece']:.1%}. Each point is the "
        "clips of one band of confidence; its size tells how many."
    )
    figure, axes = new_figure(4, 4)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    bins = [
        b for b in zip(told["confidence"], told["accuracy"], told["count"], strict=True) if b[2]
    ]
    axes.scatter([b[0] for b in bins], [b[1] for b in bins], s=[10 + 4 * b[2] for b in bins])
    axes.set(xlabel="confidence", ylabel="top-1", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    page.figure(figure)


def _few_shot(page: Page, few: Mapping[str, Any]) -> None:
    page.heading("k-shot episodes")
    if "skipped" in few:
        page.text("Not done: " + few["skipped"] + ".")
        return
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
    for name, groups in few["by_group"].items():
        rows.append([TITLES[name], *_cells(groups, few["shots"])])
        rows.append(["… interval over episodes", *_cells(few["top1"][name], few["shots"])])
    rows.append([TITLES["chance"]] + [f"{few['chance']:.1%}"] * len(few["shots"]))
    page.text(text)
    page.table(heads, rows)
    page.text(
        "First interval: test groups resampled; it tells how far other test scenes could move the "
        "mean, and is the one to compare by. Second: mean over episodes, ±1.96 standard errors; it "
        "shrinks with more episodes and tells only how well these clips are known.",
        small=True,
    )
    page.figure(_few_shot_figure(few))


def _cells(by_shots: Mapping[str, Any], shots: Sequence[str]) -> list[str]:
    return [_estimate(by_shots[k]) if k in by_shots else "" for k in shots]


def _retrieval(page: Page, both: Mapping[str, Any]) -> None:
    rows = []
    for name, title in (("text_to_video", "Text to video"), ("video_to_text", "Video to text")):
        row = both[name]
        recall = [f"{row['recall'][key]:.1%}" for key in ("R@1", "R@5", "R@10")]
        right = f"{row['right_per_query']:.1f} of {row['gallery']}"
        rows.append([title, row["queries"], *recall, f"{row['median_rank']:g}", right])
    heads = ["", "queries", "R@1", "R@5", "R@10", "median rank", "right answers"]
    page.heading("Retrieval")
    page.text(
        "Over the test clips and their distinct captions. A caption shared by several clips, "
        "as all clips of a class share those made from its name, is answered by any of them: "
        "mind the number of right answers when comparing with other data sets."
    )
    page.table(heads, rows)


def _per_class(page: Page, metrics: Mapping[str, Any]) -> None:
    judged = metrics["closed_set"]["spklip"]["per_class"]
    rows = []
    for name, count in metrics["data"]["per_class"].items():
        share = judged.get(name)
        shown = "" if share is None else _estimate(share | {"value": share["top1"]})
        rows.append([name, count["train"], count["test"], shown])
    page.heading("Classes")
    page.table(["", "training clips", "test clips", "top-1"], rows)
    page.text("Interval: Wilson, over clips.", small=True)


def _training(page: Page, train: Mapping[str, Any]) -> None:
    page.heading("Training")
    if train["curve"]:
        page.figure(_curve_figure(train["curve"]))
    else:
        page.text("Nothing logged.")
    if taught := train.get("tower_curve"):
        first, last = taught[0], taught[-1]
        page.text(
            f"Before that the converted image tower learnt to see as the trained one, in "
            f"{last['step']:.0f} steps: squared distance {first['seen']:.2f} to "
            f"{last['seen']:.2f} of the variance of what is seen, {first['spikes']:.2f} to "
            f"{last['spikes']:.2f} spikes a synapse."
        )


def _estimate(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def _difference(estimate: Mapping[str, float]) -> str:
    points = [100 * estimate[key] for key in ("value", "low", "high")]
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*points)


def _curve_figure(curve: Sequence[Mapping[str, float]]) -> Any:
    figure, loss = new_figure(8, 3)
    step = [point["step"] for point in curve]
    loss.plot(step, [point["loss"] for point in curve], color="tab:blue")
    loss.set(xlabel="step", ylabel="contrastive loss", ylim=(0, None))
    match = loss.twinx()
    match.plot(step, [point.get("batch_match", float("nan")) for point in curve], "tab:orange")
    match.set(ylabel="match within the batch", ylim=(0, 1.02))
    return figure


def _few_shot_figure(few: Mapping[str, Any]) -> Any:
    figure, axes = new_figure(8, 3.2)
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
    return figure


def _confusion(page: Page, closed: Mapping[str, Any]) -> None:
    names, counts = closed["class_names"], closed["confusion"]
    size = min(12.0, 2.5 + 0.32 * len(names))
    figure, axes = new_figure(size + 1, size)
    axes.imshow(counts, cmap="Blues")
    axes.set(xlabel="answer", ylabel="true class")
    if len(names) <= 60:
        shown = [printable(name[:MOST_OF_NAME]) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), shown, fontsize=8)
    if len(names) <= 30:
        darkest = max(max(row) for row in counts)
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                color = "white" if count > darkest / 2 else "black"
                if count:
                    axes.text(j, i, count, ha="center", va="center", fontsize=8, color=color)
    page.heading("Confusion")
    page.figure(figure)
