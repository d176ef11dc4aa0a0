"""Which parts of a run's configuration decide its number: runs that differ there never share a row.

Seeds, paths, devices and loggers are left out; so are keys that name things or only hold presets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NEVER = {"_target_", "name", "label", "paper", "smoke", "genotype", "repeats", "root", "folder",
          "download", "export_onnx", "test_batch_size", "test_every", "protocol", "implementation",
          "modules"}
SEARCH_GROUPS = ("algorithm", "search", "search_space", "early_stop", "dataset")
EVALUATION_GROUPS = ("evaluation", "dataset")


def relevant(config: Mapping[str, Any], groups: Iterable[str]) -> str:
    """The deciding settings of some configuration groups as canonical JSON {"group.key": value}."""
    flat: dict[str, Any] = {}
    for group in groups:
        _flatten(config.get(group), group, flat)
    return json.dumps(flat, sort_keys=True)


def _flatten(value: Any, prefix: str, out: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _NEVER:
                _flatten(item, f"{prefix}.{key}", out)
    elif value is not None:
        out[prefix] = value


def distinguish(settings: Sequence[str], limit: int = 3) -> list[str]:
    """For each of several settings, the keys in which they differ: "lam=0.01, epochs=6", "" when
    all are equal. At most `limit` keys are named, the rest counted."""
    parsed = {text: json.loads(text) for text in set(settings)}
    if len(parsed) <= 1:
        return [""] * len(settings)
    keys = sorted({key for flat in parsed.values() for key in flat})
    differing = [k for k in keys
                 if len({json.dumps(flat.get(k)) for flat in parsed.values()}) > 1]
    names = {text: _words(flat, differing, limit) for text, flat in parsed.items()}
    return [names[text] for text in settings]


def _words(flat: dict[str, Any], keys: list[str], limit: int) -> str:
    shown = [f"{k.split('.', 1)[-1]}={_short(flat.get(k))}" for k in keys[:limit]]
    rest = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:21] + "..."
