"""The house rules that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from nasbench.configuration import config_folder
from search_spaces import OPERATIONS

ROOT = Path(__file__).parent.parent
BELOW = {"search_spaces": {"search_spaces"}, "algorithms": {"algorithms", "search_spaces"},
         "nasbench": {"nasbench", "algorithms", "search_spaces"}}
FILES = sorted(p for room in BELOW for p in (ROOT / room).rglob("*.py"))
# Algorithms may build on the contract and on shared parts, not on each other.
STRATEGIES = {yaml.stem for yaml in (config_folder() / "algorithm").glob("*.yaml")}


def imports(path: Path) -> set[str]:
    """Every imported module, absolute."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for module in imports(path):
        top = module.split(".")[0]
        if top in BELOW or top in ("run", "tests", "benchmarks"):
            assert top in BELOW[room], f"{path} imports {module}"
        if top in ("hydra", "omegaconf"):
            assert path.name == "configuration.py", f"{path} imports {module}"
        if top == "wandb":
            assert path.name == "loggers.py", f"{path} imports {module}"
        if room == "algorithms" and top == "torch":
            assert not module.startswith(("torch.cuda", "torch.utils.data")), path


def test_wandb_is_imported_only_when_switched_on() -> None:
    tree = ast.parse((ROOT / "nasbench" / "loggers.py").read_text(encoding="utf-8"))
    top_level = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any("wandb" in ast.dump(n) for n in top_level)


@pytest.mark.parametrize("path", [p for p in FILES if "nasbench" in p.relative_to(ROOT).parts[0]],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_nasbench_names_no_algorithm_and_no_operation(path: Path) -> None:
    names = (STRATEGIES - {"random"}) | set(OPERATIONS) - {"none"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in names, f"{path}:{node.lineno} names {node.value!r}"
