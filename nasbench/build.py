"""From plain configuration to typed objects: keys, types and ranges checked, the key named."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def construct(target: Callable[..., T], values: Mapping[str, Any], section: str) -> T:
    """`target(**values)` after checking names and types against its annotations.

    ValueError `SECTION.KEY: ...` for a missing or unknown key or a wrong type; a ValueError of the
    constructor itself (out of range) passes through, prefixed when it names no section.
    """
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    parameters = {name: p for name, p in inspect.signature(target).parameters.items()}
    for key in values:
        if key not in parameters:
            raise ValueError(f"{section}.{key}: unknown key; known: {', '.join(parameters)}")
    for name, parameter in parameters.items():
        if name not in values and parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{section}.{name}: missing")
    checked = {key: coerce(value, hints.get(key, Any), f"{section}.{key}")
               for key, value in values.items()}
    return target(**checked)


def coerce(value: Any, hint: Any, key: str) -> Any:
    """The value, integers widened to float where asked; ValueError if it is not of that type."""
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if option is type(None):
                if value is None:
                    return None
                continue
            try:
                return coerce(value, option, key)
            except ValueError:
                continue
    elif origin in (list, tuple):
        if isinstance(value, list | tuple):
            inner = arguments[0] if arguments else Any
            return [coerce(item, inner, f"{key}[{i}]") for i, item in enumerate(value)]
    elif origin is dict or hint is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif hint is bool or hint is str:
        if isinstance(value, hint):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value != value or value in (float("inf"), float("-inf")):
                raise ValueError(f"{key}: must be a finite number, got {value}")
            return float(value)
    else:
        assert isinstance(value, hint), (key, hint)
        return value
    raise ValueError(f"{key}: must be {_words(hint)}, got {value!r}")


def _words(hint: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text",
             type(None): "null"}
    if hint in names:
        return names[hint]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (list, tuple):
        return f"a list ({_words(arguments[0])} each)" if arguments else "a list"
    return " or ".join(_words(a) for a in arguments) if arguments else str(hint)


def locate(path: str) -> Any:
    """`package.module.Name` -> the object; ValueError when it does not exist."""
    if not isinstance(path, str):
        raise ValueError(f"_target_: must be text such as package.module.Name, got {path!r}")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        if not inspect.isclass(found):
            raise ValueError("not a class")
        return found
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_ {path}: {error}") from None


def component(values: Mapping[str, Any], section: str, ignore: tuple[str, ...] = ()) -> Any:
    """Build the object a configuration group describes: `_target_` plus constructor arguments."""
    if not isinstance(values.get("name"), str) or not values["name"]:
        raise ValueError(f"{section}.name: must be text, got {values.get('name')!r}")
    skipped = ("_target_", "name", *ignore)
    arguments = {key: value for key, value in values.items() if key not in skipped}
    return construct(locate(values["_target_"]), arguments, section)
