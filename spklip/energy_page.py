"""Energy of a trained model on its own: counted without judging, with a page to look at."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spikedata import Page, SpikeDataError, write_page
from spklip.building import build_model, load_model_parts, of_checkpoint
from spklip.check import check_clips
from spklip.embedding import check_apart, check_new
from spklip.energy import COSTS
from spklip.energy_report import add_energy
from spklip.recipe import Recipe
from spklip.splits import open_splits
from spklip.tower_energy import count_energy


def measure_energy(
    checkpoint: Path | str,
    recipe: Recipe,
    *,
    costs: str = "fp32",
    out: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Count the arithmetic and energy of a trained model's video tower; nothing is judged.

    Args:
        checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
        recipe: data and evaluation settings; see :func:`recipe_of_run`.
        costs: whose energies stand on the page: ``fp32``, ``fp16`` or ``int8``.
        out: HTML file to write; None writes none.
        overwrite: replace ``out``.
        progress: show a bar on standard error.

    Returns:
        What a run has in ``metrics.json`` under ``energy``; its keys stand in the reference of
        recipes.

    Raises:
        ValueError: there are no costs of that name.
        SpikeDataError: no such checkpoint, no data, ``eval.energy_clips`` is 0, a tower that hides
            what it multiplies, or ``out`` is there and ``overwrite`` is False.
    """
    if costs not in COSTS:
        raise ValueError(f"costs must be {', '.join(COSTS)}, got {costs!r}")
    if not recipe.eval.energy_clips:
        raise SpikeDataError("eval.energy_clips is 0: say on how many, eval.energy_clips=8")
    if out is not None:
        check_new(out, overwrite=overwrite)
    recipe = of_checkpoint(recipe, checkpoint)
    config, _ = load_model_parts(recipe.model)
    splits = open_splits(recipe)
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path, size=splits.size))
    check_clips(recipe.data, config, splits)
    if out is not None:
        check_apart(out, splits.test.opened)
    model: Any = build_model(recipe.model, config)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    energy = count_energy(model, splits.test, recipe, progress=progress)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_page(out, lambda: _page(f"Energy of {checkpoint}", energy, costs))
    return energy


def _page(title: str, energy: dict[str, Any], costs: str) -> str:
    page = Page(title)
    add_energy(page, energy, costs=costs)
    return page.render()
