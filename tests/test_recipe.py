"""YAML to dataclass: strict, with errors that name the key, the value and the way out."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from spikedata.errors import RecipeError
from spikedata.recipe import from_dict, load_recipe, parse_recipe, to_dict


@dataclass(frozen=True)
class Train:
    learning_rate: float = 1e-3
    steps: int = 10
    reset: Literal["subtract", "zero"] = "subtract"
    shots: tuple[int, ...] = (1, 2)
    size: tuple[int, int] | None = None
    mixed: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")


@dataclass(frozen=True)
class Recipe:
    name: str
    train: Train = field(default_factory=Train)


def test_values_take_the_types_of_their_fields():
    recipe = parse_recipe(
        "name: x\ntrain: {learning_rate: 1e-4, steps: 5.0, shots: [4], size: [3, 2]}", Recipe
    )
    assert recipe == Recipe("x", Train(learning_rate=1e-4, steps=5, shots=(4,), size=(3, 2)))
    assert isinstance(recipe.train.steps, int)


def test_a_recipe_survives_its_dictionary():
    recipe = Recipe("x", Train(shots=(8,), size=(1, 2)))
    assert from_dict(Recipe, to_dict(recipe)) == recipe


def test_overrides_reach_into_sections():
    recipe = parse_recipe("name: x", Recipe, ["train.steps=7", "train.shots=[1, 4]"])
    assert recipe.train.steps == 7
    assert recipe.train.shots == (1, 4)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("name: x\ntrian: {}", [], "unknown key 'trian'. Did you mean 'train'?"),
        ("name: x\ntrain: {step: 1}", [], "train: unknown key 'step'. Did you mean 'steps'?"),
        ("name: x\nzzz: 1", [], "unknown key 'zzz'. Known keys: name, train"),
        ("train: {}", [], "key 'name' is missing"),
        ("name: x\ntrain: {steps: 1.5}", [], "train: steps: expected int, got 1.5"),
        ("name: x\ntrain: {steps: true}", [], "train: steps: expected int, got True"),
        ("name: x\ntrain: {learning_rate: fast}", [], "learning_rate: expected float, got 'fast'"),
        ("name: x\ntrain: {mixed: 1}", [], "mixed: expected bool, got 1"),
        ("name: x\ntrain: {reset: none}", [], "expected one of subtract, zero, got 'none'"),
        ("name: x\ntrain: {size: [1]}", [], "size: expected 2 values, got 1"),
        ("name: x\ntrain: 3", [], "train: expected keys and values, got 3"),
        ("name: x\ntrain: {steps: -1}", [], "train: steps must not be negative, got -1"),
        ("- 1", [], "expected keys and values, got list"),
        ("a: [", [], "not YAML"),
        ("name: x\ntrain: {steps: 1, steps: 2}", [], "not YAML: key 'steps' stands twice"),
        ("name: x\n? [1]\n: 2", [], "not YAML: while constructing a mapping"),
        ("name: x", ["train.steps"], "override 'train.steps': expected KEY=VALUE"),
        ("name: x", ["train.stepz=1"], "Did you mean 'steps'?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_line(text, overrides, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, Recipe, overrides, where="r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read: No such file"):
        load_recipe(tmp_path / "none.yaml", Recipe)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file"):
        load_recipe(tmp_path / "binary.yaml", Recipe)
