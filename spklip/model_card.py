"""The card of a trained model: what it is, what it was made of, and whose weights are in it."""

from typing import Any

from spikedata import markdown_text
from spklip.model import SpklipConfig, encoders_of
from spklip.recipe import Recipe


def model_card(config: SpklipConfig, recipe: Recipe) -> str:
    """Text of a trained model's ``README.md``, as the Hub shows it.

    Names and licences of pretrained encoders stand in it: a model that is passed on carries their
    weights.
    """
    lines = [
        "---",
        "library_name: spklip",
        "tags: [spike-camera, video-text, spklip]",
        "---",
        "",
        "# SPKLIP",
        "",
        "Aligns spike video with language. Trained by the recipe beside this file on "
        f"{markdown_text(str(recipe.data.path))}.",
        "",
        "```python",
        "from spklip import SpklipModel",
        "",
        'model = SpklipModel.from_pretrained("THIS_FOLDER")',
        "```",
        "",
    ]
    encoders = encoders_of(config)
    if not encoders:
        return "\n".join([*lines, "All weights were trained from scratch.", ""])
    lines += ["It holds weights made by others:", ""]
    lines += [f"- {_encoder(one)}" for one in encoders]
    return "\n".join([*lines, ""])


def _encoder(one: dict[str, Any]) -> str:
    more = [f"licence {one['licence']}"]
    more += [f"{key} {one[key]}" for key in ("source", "sha256") if one.get(key)]
    return markdown_text(f"{one['part']}: {one['name']} ({'; '.join(more)})")
