"""The recipes that come with the project, and what a recipe refuses."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from spikedata import RecipeError
from spklip.model import SpklipConfig
from spklip.recipe import Recipe, read_recipe

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_recipes():
    assert {"fewshot.yaml", "smoke.yaml", "ucf101.yaml", "paper.yaml"} <= {
        path.name for path in RECIPES
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_valid_and_its_model_can_be_configured(path):
    recipe = read_recipe(path)
    config = SpklipConfig.preset(recipe.model.preset, **recipe.model.changes)
    assert recipe.data.window_ticks // recipe.data.segments >= config.hsfe_ticks


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_first_comment_is_the_command_that_runs_it(path):
    first = path.read_text().splitlines()[0]
    command = "spikedata demo" if path.stem == "demo" else f"spklip-train recipes/{path.name}"
    assert first.startswith(f"# {command}")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_listed_in_the_readme(path):
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text()


def test_every_field_is_in_the_reference():
    text = (FOLDER.parent / "docs/reference/recipes.md").read_text()
    for section in dataclasses.fields(Recipe):
        for field in dataclasses.fields(getattr(Recipe(), section.name)):
            row = rf"^\| `{section.name}\.{field.name}` \|"
            assert re.search(row, text, re.MULTILINE), f"{section.name}.{field.name}"


def test_the_few_shot_command_of_the_guide_feeds_the_model_it_starts_from():
    guide = (FOLDER.parent / "docs/howto/train.md").read_text()
    command = re.search(r"^\$ (spklip-train .*data\.shots=5(?:.*\\\n)*.*)$", guide, re.MULTILINE)[1]
    program, path, *words = shlex.split(command.replace("\\\n", " "))
    out = words.index("--out")
    recipe = read_recipe(FOLDER.parent / path, words[:out])
    before = read_recipe(FOLDER / "ucf101.yaml")
    assert (program, words[out + 1]) == ("spklip-train", "runs/ucf101-five-shots")
    assert recipe.model.checkpoint == "runs/ucf101"
    assert recipe.data.window_ticks == before.data.window_ticks
    assert recipe.data.segments == before.data.segments
    assert recipe.data.crop == before.data.crop
    assert recipe.data.shots == 5


def test_overrides_reach_into_sections_and_read_numbers():
    recipe = read_recipe(
        FOLDER / "smoke.yaml", ["train.max_steps=7", "train.learning_rate=1e-4", "eval.shots=[1]"]
    )
    assert recipe.train.max_steps == 7
    assert recipe.train.learning_rate == 1e-4
    assert recipe.eval.shots == (1,)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.max_step=7", "Did you mean 'max_steps'"),
        ("train.max_steps=ten", "expected int"),
        ("train.max_steps=0", "max_steps must be positive"),
        ("data.segments=7", "does not divide"),
        ("data.crop=0", "crop must be above 0"),
        ("data.test_split=train", "are both 'train'"),
        ("text.templates=[no place for a name]", "for the class name"),
        ("text.templates=['a {} of {kind}']", "no other braces"),
        ("train.learning_rate=nan", "learning_rate must be positive, got nan"),
        ("train.max_grad_norm=inf", "max_grad_norm must be positive, got inf"),
        ("train.weight_decay=nan", "weight_decay must be 0 or more, got nan"),
        ("model.checkpoint=somewhere", "cannot be combined with checkpoint"),
        ("eval.leaks=ignore", "refuse, report"),
        ("optimiser.name=sgd", "unknown key 'optimiser'"),
    ],
)
def test_what_does_not_fit_is_refused(word, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        read_recipe(FOLDER / "smoke.yaml", [word])
