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
from spikedata.wording import shown

C = TypeVar("C")

MOST_BYTES = 64 << 10
"""Of a recipe, which is written by hand."""
MOST_VALUES = 50_000
"""In one, every alias written out."""
MOST_DEPTH = 50
"""Of values in one another."""
MOST_BITS = 1_000
"""Of a whole number, which then is a float too and can be printed."""


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
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1).decode()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file: {error}") from error
    except ValueError as error:  # a null character in the name
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    return parse_recipe(text, config_class, overrides, where=str(path))


def parse_recipe(
    text: str, config_class: type[C], overrides: Sequence[str] = (), *, where: str = "recipe"
) -> C:
    """:func:`load_recipe` for YAML text; ``where`` begins every error message."""
    values = _plain_values(text, where)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: expected keys and values, got {type(values).__name__}")
    for word in overrides:
        _override(values, word)
    return from_dict(config_class, values, where=where)


def _plain_values(text: str, where: str) -> Any:
    """What YAML text says: numbers, texts, lists and mappings.

    Raises:
        RecipeError: it is not YAML, holds something else, or is too large or too deep.
    """
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise RecipeError(f"{where}: is past {MOST_BYTES:,} bytes, too large for settings")
    try:
        values = yaml.load(text, _StrictLoader)
    except Exception as error:  # PyYAML lets through whatever its conversions raise
        kind = "" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: "
        raise RecipeError(f"{where}: not YAML: {kind}{error}") from error
    _check_plain(values, where)
    return values


def _check_plain(values: Any, where: str) -> None:
    """Check values with every alias written out: a few lines of those can stand for gigabytes."""
    waiting, seen = [(values, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            raise RecipeError(f"{where}: {shown(value)} holds what no text can")
        inner: list[Any] = []
        if isinstance(value, dict):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, list):
            inner = value
        elif not isinstance(value, str | int | float | None):
            raise RecipeError(f"{where}: {shown(value)} is no plain value; write it in quotes")
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise RecipeError(f"{where}: {shown(value)} is larger than any setting")
        if seen + len(waiting) + len(inner) > MOST_VALUES or depth > MOST_DEPTH:
            raise RecipeError(
                f"{where}: more than {MOST_VALUES:,} values, or over {MOST_DEPTH} in one another"
            )
        waiting += [(one, depth + 1) for one in inner]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


class _StrictLoader(yaml.SafeLoader):
    """YAML of plain values; of a key that stands twice, PyYAML would keep the last in silence."""

    # Refused as it is read: the time that PyYAML takes grows with the square of the depth.
    def fetch_flow_collection_start(self, token_class: Any) -> None:
        self._check_depth(self.flow_level)
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        self._check_depth(len(self.indents))
        return bool(super().add_indent(column))

    def _check_depth(self, depth: int) -> None:
        if depth >= MOST_DEPTH:
            raise yaml.scanner.ScannerError(
                None, None, f"over {MOST_DEPTH} values in one another", self.get_mark()
            )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                said = f"key {shown(key.value)} stands twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _override(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(
            f"override {shown(word)}: expected KEY=VALUE, for example train.max_steps=10"
        )
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent)
        if not isinstance(inner, dict):
            inner = {}
            values[parent] = inner
        values = inner
    values[last] = _plain_values(text, f"override {shown(word)}")


def from_dict(config_class: type[C], values: Mapping[str, Any], *, where: str = "recipe") -> C:
    """Build ``config_class`` from plain values, coerced by its field types.

    Raises:
        RecipeError: an unknown or missing key, a value of the wrong type, or one that the
            dataclass itself refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(config_class) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key {shown(key)}.{_suggestion(key, fields)}")
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
    except (ValueError, OverflowError) as error:  # or a number past all that is counted
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


def _suggestion(key: Any, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key[:100], known, n=1) if isinstance(key, str) else []
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
                f"{where}: expected one of {', '.join(map(str, args))}, got {shown(value)}"
            )
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected keys and values, got {shown(value)}")
        return from_dict(typing.cast(type[Any], hint), value, where=where)
    if origin in (list, tuple):
        return _coerce_sequence(origin, args, value, where, key)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected keys and values, got {shown(value)}")
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
        raise RecipeError(f"{where}: expected a list, got {shown(value)}")
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
        try:
            return float(value)
        except OverflowError as error:
            raise RecipeError(f"{where}: {shown(value)} is too large") from error
    if hint is float and isinstance(value, str):  # PyYAML reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is int and is_number and value == value // 1:
        return int(value)
    if hint in (bool, str) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint))
    raise RecipeError(f"{where}: expected {name}, got {shown(value)}")
