"""Published cells by name, and genotypes from files or pasted text."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from search_spaces.genotype import Genotype

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 40


@cache
def zoo() -> dict[str, dict[str, Any]]:
    """Every published cell: name -> its record (paper, source, published and counted numbers)."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(__file__).with_name("zoo").glob("*.json")):
        for record in json.loads(path.read_text(encoding="utf-8"))["genotypes"]:
            records[record["name"]] = record
    return records


def load_genotypes(name_or_path: str | Path) -> list[tuple[str, Genotype]]:
    """Named genotypes from a zoo name or a file.

    The file holds JSON (one genotype in any published form, a record with a `genotype` field, or
    {"genotypes": [...]}) or pasted `Genotype(normal=[...], ...)` text. Raises ValueError naming the
    file, FileNotFoundError when it is neither a known name nor a file.
    """
    known = zoo()
    if str(name_or_path) in known:
        return [(str(name_or_path), Genotype.from_dict(known[str(name_or_path)]))]
    path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"{name_or_path}: neither a published cell (see `python -m "
                                "nasbench zoo`) nor a file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES} bytes, not a genotype")
    try:
        return parse_genotypes(path.read_text(encoding="utf-8-sig"), path.stem)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path}: {str(error) or 'nested too deeply'}") from None


def load_genotype(name_or_path: str | Path) -> tuple[str, Genotype]:
    """The one genotype of a zoo name or file; ValueError when the file holds several."""
    found = load_genotypes(name_or_path)
    if len(found) != 1:
        raise ValueError(f"{name_or_path}: holds {len(found)} genotypes, expected one")
    return found[0]


def parse_genotypes(text: str, name: str) -> list[tuple[str, Genotype]]:
    """Read JSON or pasted Python text; nothing is evaluated. Raises ValueError."""
    if not text.lstrip().startswith(("{", "[")):
        return _pasted(text, name)
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"malformed JSON at line {error.lineno}: {error.msg}") from None
    items = data.get("genotypes") if isinstance(data, dict) and "genotypes" in data else data
    records = items if isinstance(items, list) else [items]
    if not records:
        raise ValueError("holds no genotype")
    return [_record(record, name, i if len(records) > 1 else None)
            for i, record in enumerate(records)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a JSON object repeats a key")
    return found


def _record(record: Any, name: str, position: int | None) -> tuple[str, Genotype]:
    if not isinstance(record, dict):
        raise ValueError(f"a genotype is a JSON object, got {type(record).__name__}")
    default = name if position is None else f"{name}[{record.get('index', position)}]"
    body = record["genotype"] if isinstance(record.get("genotype"), dict) else record
    return str(record.get("name", default)), Genotype.from_dict(body)


def _pasted(text: str, name: str) -> list[tuple[str, Genotype]]:
    """`NAME = Genotype(normal=[...], normal_concat=range(2, 6), ...)`, as code prints it."""
    try:
        tree = ast.parse(text.strip())
    except (SyntaxError, MemoryError, RecursionError):
        try:  # a line of a log, or a fenced block: only what stands between the parentheses
            tree = ast.parse("\n".join(_balanced(text)))
        except (SyntaxError, MemoryError, RecursionError):
            raise ValueError("neither JSON nor a Genotype(normal=[...], ...) expression") from None
    found = []
    for title, call in _calls(tree, name):
        fields: dict[str, Any] = {}
        order = ("normal", "normal_concat", "reduce", "reduce_concat")
        if len(call.args) > len(order):
            raise ValueError(f"Genotype has {len(order)} fields, got {len(call.args)}")
        for key, node in [*zip(order, call.args, strict=False),
                          *((k.arg, k.value) for k in call.keywords)]:
            if key not in order:
                raise ValueError(f"Genotype has no field {key!r}; it has {', '.join(order)}")
            fields[key] = _literal(node)
        found.append((title, Genotype.from_dict(fields)))
    if not found:
        raise ValueError("no Genotype(normal=[...], ...) expression found")
    return found


def _balanced(text: str) -> Iterator[str]:
    """Every `Genotype(...)` of a longer text, up to its closing parenthesis."""
    start = text.find("Genotype(")
    while start >= 0:
        depth = 0
        for end in range(start, len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 0 and text[end] == ")":
                yield text[start:end + 1]
                break
        else:
            return  # never closed
        start = text.find("Genotype(", end)


def _calls(tree: ast.Module, name: str) -> Iterator[tuple[str, ast.Call]]:
    for statement in tree.body:
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Tuple) and len(value.elts) == 1:
            value = value.elts[0]  # pasted with its trailing comma
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name | ast.Attribute):
            called = value.func.id if isinstance(value.func, ast.Name) else value.func.attr
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if called == "Genotype":
                yield (target.id if isinstance(target, ast.Name) else name), value


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) \
            and node.func.id in ("range", "list", "tuple") and not node.keywords:
        arguments = [_literal(a) for a in node.args]
        if node.func.id != "range":
            return arguments[0] if arguments else []
        if not all(isinstance(a, int) and abs(a) <= 64 for a in arguments) or \
                not 1 <= len(arguments) <= 3 or 0 in arguments[2:]:
            raise ValueError("range() in a genotype takes one to three small integers")
        return list(range(*arguments))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(f"line {node.lineno}: only literal lists, tuples, strings and integers "
                         "are read") from None
