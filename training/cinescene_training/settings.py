"""YAML to frozen dataclasses: each key is known and each value has its field's type, else an error names it."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class SettingsError(ValueError):
    """A configuration that cannot be run."""


def read_settings(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file, and put `a.b=value` overrides (values are YAML too) on top.

    A file may name another under `based_on`, relative to itself: it then says only what differs.

    Raises:
        SettingsError: not YAML, not a mapping, a circle of files, or an override without `=` or YAML behind it.
        FileNotFoundError: there is no such file.
    """
    record = _read_file(path, ())
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise SettingsError(f"An override has the form section.field=value; got '{override}'.")
        try:
            branch = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"The value of an override must be YAML; got '{override}'. Quote it.") from error
        for key in reversed(name.split(".")):
            branch = {key: branch}
        record = merged(record, branch)
    return record


def _read_file(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in readers:
        raise SettingsError(f"{path}: 'based_on' comes back to this file. Remove one of the links.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration {path}. Those of the studio are in training/configs.")
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} is not YAML: {error}") from error
    if not isinstance(record, dict):
        raise SettingsError(f"{path.name} must hold a mapping of sections; got {type(record).__name__}.")
    base = record.pop("based_on", None)
    if base is None:
        return record
    return merged(_read_file(path.parent / base, (*readers, path.resolve())), record)


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `change` in place of its own."""
    result = dict(base)
    for key, value in change.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names: {"a": {"b": 1}} is {"a.b": 1}."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return fields


def build(kind: type[T], record: object, where: str = "") -> T:
    """Make the dataclass `kind` from a mapping, its fields by their annotations.

    Args:
        kind: a dataclass; its fields may be numbers, strings, booleans, paths, literals, tuples,
            further dataclasses, and any of these or None.
        record: the mapping, as YAML gives it.
        where: dotted name of this part, for messages.

    Raises:
        SettingsError: an unknown field, a missing one, or a value of another type; the message
            names the field. Also what the dataclass itself refuses.
    """
    if not isinstance(record, Mapping):
        raise SettingsError(f"{where or kind.__name__} must be a section with fields; got {record!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for name in record:
        if name not in fields:
            raise SettingsError(f"There is no field '{_join(where, str(name))}'; known here: {', '.join(fields)}.")
    values = {name: convert(hints[name], value, _join(where, name)) for name, value in record.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise SettingsError(f"The field '{_join(where, name)}' is missing. Add it to the configuration.")
    try:
        return kind(**values)
    except ValueError as error:
        raise SettingsError(f"{where or kind.__name__}: {error}") from error


def convert(hint: Any, value: object, where: str) -> Any:
    """One value by the annotation of its field; numbers of the other kind pass where nothing is lost."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return convert(next(choice for choice in arguments if choice is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise SettingsError(f"'{where}' must be one of {', '.join(map(str, arguments))}; got {value!r}.")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        if not repeated and len(value) != len(arguments):
            raise SettingsError(f"'{where}' must hold {len(arguments)} values; got {len(value)}.")
        hints = [arguments[0]] * len(value) if repeated else list(arguments)
        return tuple(
            convert(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(hints, value, strict=True))
        )
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]
    if hint is float and isinstance(value, str) and _is_number(value):
        return float(value)  # YAML reads 5e-5 as text
    if hint in (int, str, bool) and type(value) is hint:
        return value
    wanted = "a list" if origin is tuple else getattr(hint, "__name__", str(hint))
    raise SettingsError(f"'{where}' must be {wanted}; got {value!r}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
