"""A user's mistake is one line naming the key or file, exit code 2, and nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs
import torch

from nasbench import checkpoint
from nasbench.configuration import main
from search_spaces import Genotype, load_genotype, parse_genotypes

GIVEN = ["stage=evaluate"]
GOOD = {"normal": [["sep_conv_3x3", 0], ["skip_connect", 1]] * 4, "normal_concat": [2, 3, 4, 5],
        "reduce": [["sep_conv_3x3", 0], ["skip_connect", 1]] * 4, "reduce_concat": [2, 3, 4, 5]}


def refused(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """The one error line of `run.py OVERRIDES`."""
    assert main([*runs.TINY, *overrides]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    assert "Traceback" not in captured.out + captured.err
    return lines[0]


@pytest.mark.parametrize("override, words", [
    ("algorithm=dart", ["algorithm/dart", "darts_plus"]),
    ("search.epoch=3", ["search.epoch", "epochs"]),
    ("+search.epoch=3", ["search.epoch", "unknown"]),
    ("search.epochs=-1", ["search.epochs", "at least 1", "-1"]),
    ("search.epochs=many", ["search.epochs", "integer", "many"]),
    ("search.epochs=2.5", ["search.epochs", "integer"]),
    ("search.batch_size=100000", ["search.batch_size", "100000"]),
    ("search.valid_fraction=0", ["search.valid_fraction", "between 0 and 1"]),
    ("search.valid_fraction=1.0", ["search.valid_fraction", "between 0 and 1"]),
    ("search.learning_rate=nan", ["search.learning_rate", "finite"]),
    ("search.channels=5", ["search.channels", "even"]),
    ("search.batch_norm=frozen", ["search.batch_norm", "running"]),
    ("evaluation.drop_path=1.5", ["evaluation.drop_path"]),
    ("evaluation.schedule=sine", ["evaluation.schedule", "cosine"]),
    ("evaluation.genotype=NOT_A_CELL", ["NOT_A_CELL", "zoo"]),
    ("algorithm.learning_rate=-1", ["algorithm.learning_rate", "positive"]),
    ("search_space.operations=[none]", ["search_space.operations"]),
    ("search_space.operations=[none,conv_9x9]", ["search_space.operations", "conv_9x9"]),
    ("search_space.modules=[no_such_module]", ["search_space.modules", "no_such_module"]),
    ("hardware=gpu", ["hardware"]),
    ("hardware.precision=float16", ["hardware.precision", "bfloat16"]),
    ("stage=retrain", ["stage", "evaluate"]),
    ("task=prune", ["task", "compress"]),
    ("seed=-1", ["seed"]),
    ("stage=evaluate", ["stage=evaluate", "stage=search"]),
    ("experiment=asap/cifar10_smal", ["experiment/asap/cifar10_smal", "cifar10_small"]),
    ("evaluation.policy=foo", ["evaluation.policy", "autoaugment_cifar10"]),
    ("evaluation.network=os.path", ["os.path", "class"]),
    ("algorithm._target_=null", ["_target_"]),
    ("algorithm.name=null", ["algorithm.name"]),
    ("search.learning_rate=1e300", ["search.learning_rate", "1e30"]),
    ("+foo=1", ["foo", "algorithm"]),
])
def test_bad_configuration(override: str, words: list[str], tmp_path: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    if override == "hardware=gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    line = refused(capsys, override, f"run_dir={tmp_path / 'run'}")
    for word in words:
        assert word in line, line


@pytest.mark.parametrize("name", ["phone", "cuda:77"])
def test_a_latency_device_that_is_not_here(name: str, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "algorithm=cars", "algorithm.objectives=[error,latency_ms]",
                   f"algorithm.latency_device={name}", f"run_dir={tmp_path / 'run'}")
    assert f"algorithm.latency_device: must be a device of this machine, got '{name}'" in line


def test_what_retraining_would_refuse_is_refused_before_the_search(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    line = refused(capsys, "evaluation.batch_size=1000", f"run_dir={folder}")
    assert "evaluation.batch_size" in line and "1000" in line
    assert not (folder / "metrics.jsonl").exists()


def test_run_dir_must_be_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert "run_dir" in refused(capsys, "run_dir=3")


@pytest.mark.parametrize("size", [9, 30, 1])
def test_impossible_image_size(size: int, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, f"dataset.image_size={size}", "dataset.crop_padding=0",
                   f"run_dir={tmp_path / 'run'}")
    assert "image_size" in line


def test_missing_data_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "dataset=cifar10", "dataset.limit_train=128", f"dataset.root={tmp_path}",
                   f"run_dir={tmp_path / 'run'}")
    assert str(tmp_path) in line and "cifar-10-batches-py" in line and "download" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change, words", [
    ({"normal": [["conv_9x9", 0], ["skip_connect", 1]] * 4}, "conv_9x9"),
    ({"normal": [["skip_connect", 2], ["skip_connect", 1]] * 4}, "earlier"),
    ({"normal": [["skip_connect", -1], ["skip_connect", 1]] * 4}, "earlier"),
    ({"normal": [["none", 0], ["none", 1]] * 4}, "no path"),
    ({"normal": [["skip_connect", 0]] * 3}, "two per node"),
    ({"normal": "skip"}, "list"),
    ({"normal": [["skip_connect", 0.5], ["skip_connect", 1]] * 4}, "integer"),
    ({"normal_concat": [9]}, "no inputs"),
    ({"normal_concat": []}, "empty"),
])
def test_bad_genotype_file(change: dict, words: str, tmp_path: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(GOOD | change))
    line = refused(capsys, *GIVEN, f"evaluation.genotype={path}", f"run_dir={tmp_path / 'run'}")
    assert str(path) in line and words in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text, words", [
    ("{", "malformed JSON"),
    ("[" * 100000, ""),
    ("__import__('os').system('touch evaluated')", "Genotype"),
    ("Genotype(normal=[(open('x'), 0)] * 8)", "literal"),
    ("{\"normal\": " + "[" * 2000 + "]" * 2000 + "}", ""),
    ("null", "Genotype"),
    ("Genotype([('skip_connect', 0), ('skip_connect', 1)], [2], [], [2], 3)", "4 fields"),
    ('{"normal": [], "normal": []}', "repeats"),
])
def test_malformed_text(text: str, words: str, tmp_path: Path,
                        capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cell.txt"
    path.write_text(text)
    line = refused(capsys, *GIVEN, f"evaluation.genotype={path}", f"run_dir={tmp_path / 'run'}")
    assert str(path) in line and words in line and len(line) < 400


def test_huge_genotype_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cell.json"
    path.write_bytes(b" " * (5 * 1024 * 1024))
    assert "larger than" in refused(capsys, *GIVEN, f"evaluation.genotype={path}")


def test_pasted_genotype_equals_the_published_one() -> None:
    text = """DARTS_V2 = Genotype(
        normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
                ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
        reduce_concat=[2, 3, 4, 5])"""
    assert parse_genotypes(text, "pasted") == [load_genotype("DARTS_V2")]


@pytest.mark.parametrize("around", ["\ufeff{}", "{},", "06/25 10:00:00 AM genotype = {}",
                                    "```python\nBEST = {}\n```", "# a cell\nX = {}  # found\r\n"])
def test_pasted_text_as_it_comes(around: str, tmp_path: Path) -> None:
    pairs = load_genotype("DARTS_V2")[1].to_pairs()
    text = "Genotype(normal={normal}, normal_concat=range(2, 6, 1), reduce={reduce}, " \
        "reduce_concat=(2, 3, 4, 5))".format(**pairs)
    path = tmp_path / "cell.txt"
    path.write_text(around.format(text), encoding="utf-8")
    assert load_genotype(path)[1] == load_genotype("DARTS_V2")[1]


def test_nodes_without_inputs() -> None:
    """A node without inputs may feed others (it is zero); it may not be concatenated."""
    cell = {"edges": [["skip_connect", 0, 2], ["sep_conv_3x3", 3, 4]], "concat": [2, 4]}
    Genotype.from_dict({"normal": cell, "reduce": cell})
    with pytest.raises(ValueError, match="no inputs"):
        Genotype.from_dict({"normal": cell | {"concat": [2, 3]}, "reduce": cell})
    with pytest.raises(ValueError, match="no path"):
        Genotype.from_dict({"normal": cell | {"concat": [4]}, "reduce": cell})


def test_run_folder_of_another_configuration(tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    runs.run(folder, "search.epochs=1", "stage=search")
    before = (folder / "result.json").read_bytes()
    line = refused(capsys, "search.epochs=2", "stage=search", f"run_dir={folder}")
    assert "run_dir" in line and "another configuration" in line
    assert (folder / "result.json").read_bytes() == before


def test_a_folder_whose_run_never_began_can_be_used_again(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "search.batch_size=100000", f"run_dir={tmp_path / 'run'}")
    result = runs.run(tmp_path / "run", "search.epochs=1", "stage=search")
    assert result["status"] == "done" and result["error"] is None


def test_foreign_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert "run_dir" in refused(capsys, f"run_dir={tmp_path}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.tex"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", None])
def test_bad_checkpoint(content: bytes | None, tmp_path: Path,
                        capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    runs.run(folder, "search.epochs=1", "stage=search")
    path = folder / checkpoint.NAME
    if content is None:
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    line = refused(capsys, "search.epochs=1", f"run_dir={folder}")
    assert str(path) in line and "checkpoint" in line
    assert path.read_bytes() == before


def test_loss_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    line = refused(capsys, "search.learning_rate=1e30", "search.grad_clip=0",
                   "hardware.checkpoint_seconds=0", f"run_dir={folder}")
    assert "not finite" in line and "search, epoch" in line and "search.learning_rate" in line
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed" and "not finite" in result["error"]
    state = torch.load(folder / checkpoint.NAME, weights_only=True)
    assert all(torch.isfinite(v) for v in state["averages"]["sums"].values())


def test_out_of_memory_names_the_knobs(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from nasbench.search.weights import SupernetWeights

    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(SupernetWeights, "step", exhausted)
    line = refused(capsys, f"run_dir={tmp_path / 'run'}")
    assert "search.batch_size" in line and "channels" in line and "precision" in line


def test_unwritable_and_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    line = refused(capsys, f"run_dir={tmp_path / 'file' / 'run'}")
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   RuntimeError("unexpected pos 64 vs 0")])
def test_a_full_disk_keeps_the_last_checkpoint(error: Exception, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk comes out of torch.save as either of these."""
    original, count = torch.save, 0

    def fills_up(value: object, file: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise error
        original(value, file)

    monkeypatch.setattr(torch, "save", fills_up)
    line = refused(capsys, "hardware.checkpoint_seconds=0", f"run_dir={tmp_path / 'run'}")
    assert checkpoint.NAME in line and "disk full" in line
    assert checkpoint.load(tmp_path / "run", (tmp_path / "run" / "identity").read_text().strip())
    assert not list((tmp_path / "run").glob("*.tmp"))
