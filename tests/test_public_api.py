"""Every public name loads, is documented, and is the same for type checkers and at run time."""

import ast
import inspect
from pathlib import Path

import pytest

import spikedata
import spklip

ROOT = Path(__file__).resolve().parents[1]
NAMES = [(package, name) for package in (spikedata, spklip) for name in package.__all__]


@pytest.mark.parametrize(
    ("package", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value)
)
def test_public_names_load_and_have_a_docstring(package, name):
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), f"{package.__name__}.{name} has no docstring"


@pytest.mark.parametrize(
    ("package", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value)
)
def test_public_names_stand_in_the_reference(package, name):
    assert f"`{name}" in (ROOT / "docs/reference/python.md").read_text()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        spikedata.nothing  # noqa: B018


def test_errors_form_one_tree():
    tree = ast.parse((ROOT / "spikedata/errors.py").read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(classes) > 5
    assert all(node.bases[0].id == "SpikeDataError" for node in classes[1:])
