"""YAML to frozen dataclass and back, strict both ways: unknown keys and wrong types fail."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml

from spikedata.errors import RecipeError

C = TypeVar("C")


def load_recipe(path: Path | str, config_class: type[C], overrides: Sequence[str] = ()) -> C:
    """Read a recipe file into ``config_class``, with dotted overrides applied on top.

    Args:
        path: YAML file whose keys are the fields of ``config_class``.
        config_class: a dataclass; its fields may be dataclasses.
        overrides: ``key.sub=value`` words; the value is read as YAML.

    Raises:
        RecipeError: no such file, not a mapping, an unknown key, or a value that does not fit.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file: {error}") from error
    return parse_recipe(text, config_class, overrides, where=str(path))


def parse_recipe(
    text: str, config_class: type[C], overrides: Sequence[str] = (), *, where: str = "recipe"
) -> C:
    """:func:`load_recipe` for YAML text; ``where`` begins every error message."""
    try:
        values = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: expected keys and values, got {type(values).__name__}")
    for word in overrides:
        _override(values, word)
    return from_dict(config_class, values, where=where)


class _StrictLoader(yaml.SafeLoader):
    """YAML of plain values; of a key that stands twice, PyYAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                said = f"key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _override(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"override {word!r}: expected KEY=VALUE, for example train.max_steps=10")
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent)
        if not isinstance(inner, dict):
            inner = {}
            values[parent] = inner
        values = inner
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {word!r}: {' '.join(str(error).split())}") from error


def from_dict(config_class: type[C], values: Mapping[str, Any], *, where: str = "recipe") -> C:
    """Build ``config_class`` from plain values, coerced by its field types.

    Raises:
        RecipeError: an unknown or missing key, a value of the wrong type, or one that the
            dataclass itself refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(config_class) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key {key!r}.{_suggestion(str(key), fields)}")
    hints = typing.get_type_hints(config_class)
    given = {
        key: _coerce(hints[key], value, f"{where}: {key}", key) for key, value in values.items()
    }
    for name, field in fields.items():
        no_default = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if no_default and name not in given:
            raise RecipeError(f"{where}: key {name!r} is missing")
    try:
        return config_class(**given)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON values of a config dataclass; :func:`from_dict` undoes it."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.init
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _suggestion(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known keys: {', '.join(sorted(known))}"


def _coerce(hint: Any, value: Any, where: str, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        return _coerce_any(options, value, where, key)
    if origin is Literal:
        if value not in args:
            raise RecipeError(
                f"{where}: expected one of {', '.join(map(str, args))}, got {value!r}"
            )
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected keys and values, got {value!r}")
        return from_dict(typing.cast(type[Any], hint), value, where=where)
    if origin in (list, tuple):
        return _coerce_sequence(origin, args, value, where, key)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected keys and values, got {value!r}")
        return dict(value)
    return _coerce_scalar(hint, value, where)


def _coerce_any(options: list[Any], value: Any, where: str, key: str) -> Any:
    problems = []
    for option in options:
        try:
            return _coerce(option, value, where, key)
        except RecipeError as error:
            problems.append(error)
    raise problems[-1]


def _coerce_sequence(
    origin: type, args: tuple[Any, ...], value: Any, where: str, key: str
) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{where}: expected a list, got {value!r}")
    if origin is tuple and len(args) == 2 and args[1] is not Ellipsis and len(value) != 2:
        raise RecipeError(f"{where}: expected 2 values, got {len(value)}")
    return origin(_coerce(args[0], item, f"{where}[{i}]", key) for i, item in enumerate(value))  # type: ignore[no-any-return]


def _coerce_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is float and isinstance(value, str):  # PyYAML reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (bool, str) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint))
    raise RecipeError(f"{where}: expected {name}, got {value!r}")
