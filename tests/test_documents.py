"""What README and CONTRIBUTING show is what runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import runs

from nasbench.configuration import compose
from nasbench.runner import execute

ROOT = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_new_algorithm_of_contributing_runs(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    python, yaml = blocks("CONTRIBUTING.md", "python")[0], blocks("CONTRIBUTING.md", "yaml")[0]
    (tmp_path / "conf" / "algorithm").mkdir(parents=True)
    (tmp_path / "conf" / "algorithm" / "exponentiated.yaml").write_text(
        yaml.replace("algorithms.exponentiated", "exponentiated"))
    (tmp_path / "exponentiated.py").write_text(python)
    monkeypatch.syspath_prepend(tmp_path)
    config = compose([f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "algorithm=exponentiated",
                      *runs.TINY, "search.epochs=1", "stage=search",
                      f"run_dir={tmp_path / 'run'}"])
    result = execute(config, runs.quiet())
    assert result["algorithm"] == "exponentiated" and result["search"]["genotypes"]


def test_the_new_operation_of_contributing_runs(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_operations.py").write_text(blocks("CONTRIBUTING.md", "python")[1])
    monkeypatch.syspath_prepend(tmp_path)
    result = runs.run(tmp_path / "run", "search_space.modules=[my_operations]", "search.epochs=1",
                      "search_space.operations=[none,skip_connect,conv_1x1]")
    assert result["status"] == "done"
    assert "conv_1x1" in str(result["search"]["genotypes"][0]["genotype"]) or \
        "skip_connect" in str(result["search"]["genotypes"][0]["genotype"])
    sys.modules.pop("my_operations", None)


@pytest.mark.parametrize("index", range(len(blocks("README.md", "python"))))
def test_python_of_the_readme_runs(index: int, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block runs as shown, except that its runs are shortened to seconds."""
    import nasbench

    monkeypatch.chdir(tmp_path)
    tiny = [o for o in runs.TINY if not o.startswith("dataset=")]
    original = nasbench.run
    short = [*tiny, "search.epochs=1"]
    monkeypatch.setattr(nasbench, "run", lambda overrides: original([*overrides, *short]))
    exec(compile(blocks("README.md", "python")[index], "README.md", "exec"), {})
