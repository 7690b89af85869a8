"""YAML to dataclass: strict, with errors that name the key, the value and the way out."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

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


DEEP_ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))
MANY_ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)
ODD = [
    "2001-99-99",
    "2001-01-01",
    "!!bool x",
    "!!int ''",
    "!!timestamp x",
    "!!binary x",
    "!!set {a}",
    "!!omap [a: 1]",
    r'"\U00110000"',
    r'"\ud800"',
    r'"\0"',
    "9" * 5_000,
    "1" + "0" * 400,
    "0x" + "f" * 20_000,
    "{" * 5_000,
    "[" * 60_000,
    "- " * 3_000,
    "? " * 3_000,
    "&a [*a]",
    "&a {b: *a}",
    "a" * 60_000,
    "é" * 60_000,
    ".inf",
    ".nan",
    "1e999",
    "\x1b[31m",
    "\u202e",
    "<<: [1]",
    "!!python/object:os.system x",
    "{[1]: 2}",
    "---\n...\n---",
]


@dataclass(frozen=True)
class Loose:
    """Takes anything: what comes through is what was read."""

    steps: int = 1
    rate: float = 1.0
    name: str = ""
    what: Any = None


def reads_or_tells(text: str, *words: str) -> None:
    """A recipe comes out that can be written again, or one line of a screen at most."""
    try:
        values = to_dict(parse_recipe(text, Loose, words, where="r.yaml"))
    except RecipeError as error:
        told = str(error)
        assert told.isprintable()
        assert 0 < len(told) <= 1_000
    else:
        json.dumps(values)
        assert parse_recipe(yaml.safe_dump(values), Loose) is not None
        str(values).encode()


@pytest.mark.parametrize("odd", [*ODD, DEEP_ALIASES, MANY_ALIASES], ids=range(len(ODD) + 2))
def test_odd_text_is_read_or_told_in_one_line(odd):
    reads_or_tells(odd)
    reads_or_tells(f"name: x\n{odd}")
    for key in ("steps", "rate", "name", "what"):
        reads_or_tells(f"{key}: {odd}")
        reads_or_tells("", f"{key}={odd}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 2001-99-99", "r.yaml: not YAML: ValueError: month must be in 1..12"),
        ("steps: !!bool x", "r.yaml: not YAML: KeyError: 'x'"),
        ("what: 2001-01-01", "r.yaml: datetime.date(2001, 1, 1) is no plain value; write it in"),
        ("what: " + "{" * 51, "not YAML: over 50 values in one another"),
        ("what: " + "- " * 100 + "x", "not YAML: "),
        (DEEP_ALIASES, "over 50 in one another"),
        (MANY_ALIASES, "more than 50,000 values"),
        ("# " + "x" * 70_000, "is past 65,536 bytes, too large for settings"),
        ("steps: 0x" + "f" * 300, "is larger than any setting"),
        (r'name: "\ud800"', "holds what no text can"),
        ("name: [" + "x, " * 2_000 + "]", "name: expected str, got ['x', 'x'"),
    ],
)
def test_what_is_too_large_or_no_plain_value_is_named(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, Loose, where="r.yaml")
    assert message in str(caught.value)


def test_fifty_values_in_one_another_and_aliases_are_read():
    assert parse_recipe("what: " + "[" * 40 + "]" * 40, Loose).what
    assert parse_recipe("what: [&a [1, 2], *a]", Loose).what == [[1, 2], [1, 2]]


@given(
    st.lists(
        st.sampled_from([*ODD[:30], "steps: ", "what: ", "\n", "  ", "{", "[", "]", ", ", "&a "])
    )
)
def test_any_mixture_is_read_or_told_in_one_line(parts):
    reads_or_tells("".join(part[:2_000] for part in parts))
