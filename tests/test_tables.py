"""Paper tables, comparisons, statistics and the four output formats."""

from __future__ import annotations

import csv
import io
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from results_writer import graph, result, write_record

from nasbench import results
from nasbench.tables import compare, measured_tables, paper_tables, render
from nasbench.tables.groups import REPEATS, SEARCHES, measured_groups
from nasbench.tables.paper import label
from nasbench.tables.render import latex_text
from nasbench.tables.statistics import (
    bootstrap_interval,
    kendall_tau,
    relative_improvement,
    sign_flip_test,
    summarise,
)
from nasbench.tables.table import Row, Table
from search_spaces import Genotype, zoo

DARTS600 = {f"evaluation.{key}": value for key, value in {
    "epochs": 600, "batch_size": 96, "channels": 36, "cells": 20, "learning_rate": 0.025,
    "learning_rate_min": 0.0, "schedule": "cosine", "momentum": 0.9, "weight_decay": 3e-4,
    "grad_clip": 5.0, "auxiliary_weight": 0.4, "drop_path": 0.2, "cutout": 16}.items()}
V1 = Genotype.from_dict(zoo()["DARTS_V1"]).to_dict()


def frame(tmp_path: Path, *contents: dict[str, Any]) -> pd.DataFrame:
    for content in contents:
        write_record(tmp_path / "records", content)
    found = results.load(tmp_path / "records", None)
    assert not found.attrs["problems"]
    return found


def retrained(seed: int, percent: float, **changes: Any) -> dict[str, Any]:
    return result("darts", seed, percent, dataset="cifar10", given=True, genotype=V1,
                  cell="DARTS_V1", protocol="darts600", settings=DARTS600, **changes)


def rows(table: Table, start: str) -> list[Row]:
    return [row for row in table.rows if row.text["architecture"].startswith(start)]


# -- statistics ------------------------------------------------------------------------------------

def test_summary_and_interval_by_hand() -> None:
    found = summarise([2.0, 3.0, 4.0])
    assert (found.n, found.mean, found.std, found.best) == (3, 3.0, 1.0, 2.0)
    low, high = found.interval() or (0, 0)  # t(0.975, 2) = 4.302653
    half = 4.302653 / 3 ** 0.5
    assert (low, high) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    assert summarise([2.0]).std is None and summarise([2.0]).interval() is None


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(3).normal(5, 1, 200)
    low, high = bootstrap_interval(values) or (0, 0)
    half = 1.96 * values.std(ddof=1) / 200 ** 0.5
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_interval(values) == (low, high)  # same records, same table
    assert bootstrap_interval([1.0, 2.0]) is None


def test_sign_flip_test_against_all_patterns() -> None:
    data = [0.3, -0.1, 0.4, 0.25, 0.05]
    extreme = sum(abs(sum(s * d for s, d in zip(signs, data, strict=True))) >= sum(data) - 1e-12
                  for signs in itertools.product((1, -1), repeat=5))
    assert sign_flip_test(data) == pytest.approx(extreme / 32)
    assert sign_flip_test([1.0] * 4) == 2 / 16
    assert sign_flip_test([0.0, 0.0]) == 1.0 and sign_flip_test([]) is None
    assert (sign_flip_test([1.0] * 30) or 1) < 0.001 < 0.5 < (sign_flip_test([1.0, -1.0] * 15) or 0)


def test_kendall_tau_needs_five_pairs() -> None:
    assert kendall_tau([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert kendall_tau([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]) == pytest.approx(0.8)
    assert kendall_tau([1, 2, 3, 4, 5], [1] * 5) is None


def test_relative_improvement() -> None:
    assert relative_improvement(2.76, 3.05) == pytest.approx(100 * (97.24 - 96.95) / 96.95)


# -- which runs share a row ------------------------------------------------------------------------

def test_searches_and_repeats_are_different_rows(tmp_path: Path) -> None:
    found = frame(tmp_path, result("alpha", 0, 5.0, repeats=2), result("alpha", 1, 6.0),
                  result("beta", 0, 7.0, given=True, genotype=graph(9), cell="GIVEN"),
                  result("beta", 1, 7.2, given=True, genotype=graph(9), cell="GIVEN"))
    groups = {(g.basis, g.cell): g for g in measured_groups(found)}
    assert set(groups) == {(SEARCHES, "alpha"), (REPEATS, "GIVEN")}
    searches = groups[SEARCHES, "alpha"]  # one value per search: the mean of its repeats
    assert searches.values == pytest.approx([5.05, 6.0]) and searches.summary.n == 2
    assert groups[REPEATS, "GIVEN"].summary.mean == pytest.approx(7.1)


def test_repeats_within_the_only_search_have_their_row(tmp_path: Path) -> None:
    found = frame(tmp_path, result("alpha", 0, 5.0, repeats=10))
    groups = {g.basis: g for g in measured_groups(found)}
    assert groups[SEARCHES].summary.n == 1 and groups[REPEATS].summary.n == 10
    assert groups[REPEATS].algorithm == "alpha"


def test_one_training_counts_once_however_often_it_ran(tmp_path: Path) -> None:
    found = frame(tmp_path, retrained(0, 3.0), retrained(0, 3.0, run_id="again"),
                  retrained(1, 3.2))
    assert [g.summary.n for g in measured_groups(found)] == [2]


@pytest.mark.parametrize("change", [
    {"protocol": "asap1500"}, {"search_protocol": "paper"}, {"settings": {"algorithm.lam": 9.0}},
    {"settings": {"search.epochs": 2}}, {"settings": {"evaluation.cutout": 16}},
    {"settings": {"evaluation.epochs": 1}}, {"dataset": "mnist"}])
def test_different_settings_never_share_a_mean(tmp_path: Path, change: dict[str, Any]) -> None:
    found = frame(tmp_path, result("alpha", 0, 5.0), result("alpha", 1, 9.0, run_id="x", **change))
    groups = [g for g in measured_groups(found) if g.basis == SEARCHES]
    assert [g.summary.n for g in groups] == [1, 1]
    lines = [row.text["architecture"] + row.text["protocol"]
             for table in measured_tables(found) for row in table.rows if row.kind == "measured"]
    if "dataset" not in change:
        assert len(set(lines)) == 2, lines


# -- paper tables ----------------------------------------------------------------------------------

def test_paper_order_and_random_search_first(tmp_path: Path) -> None:
    table = paper_tables(frame(tmp_path), "asap", "cifar10")[0]
    names = [row.text["architecture"] for row in table.rows]
    assert names[:2] == ["Random search", "AmoebaNet-A"] and names[-1] == "ASAP-Large"
    assert table.rows[0].kind == "absent" and "not measured" in table.rows[0].text["row"]
    small = rows(table, "ASAP-Small")[0]
    assert small.text["error"] == "1.99" and "1500 epochs" in small.text["protocol"]
    titles = " ".join(c.title for c in table.columns)
    assert "convolution + linear, batch 1, no auxiliary head" in titles


def test_measured_random_search_replaces_the_placeholder(tmp_path: Path) -> None:
    found = frame(tmp_path, *(result("random", s, 3.3, dataset="cifar10", cell="random (N=1)",
                                     settings={"algorithm.candidates": 1}) for s in range(2)))
    for paper in ("darts", "darts_plus", "asap", "bayesnas", "cars", "p_darts", "pc_darts"):
        table = paper_tables(found, paper, "cifar10")[0]
        assert table.rows[0].text["architecture"] == "Random search (N=1)"
        assert table.rows[0].text["n"] == "2"
        assert not any(row.kind == "absent" for row in table.rows)


@pytest.mark.parametrize("errors, verdict", [
    ((2.95, 3.0, 3.1, 2.9), "inside"), ((3.35, 3.4, 3.42, 3.38), "OUTSIDE"), ((3.4,), "n=1")])
def test_gap_is_flagged_only_outside_the_interval(tmp_path: Path, errors: tuple[float, ...],
                                                  verdict: str) -> None:
    found = frame(tmp_path, *(retrained(s, e) for s, e in enumerate(errors)))
    table = paper_tables(found, "darts", "cifar10")[0]
    published = next(i for i, row in enumerate(table.rows)
                     if row.text["architecture"] == "DARTS (first order) + cutout")
    row = table.rows[published + 1]  # directly under the row it answers
    assert row.text["architecture"] == "DARTS_V1" and row.text["row"] == REPEATS
    assert row.text["n"] == str(len(errors)) and verdict in row.text["gap"]
    assert row.value["gap"] == pytest.approx(sum(errors) / len(errors) - 3.0)


def test_other_protocols_are_shown_but_not_compared(tmp_path: Path) -> None:
    found = frame(tmp_path,
                  result("darts", 0, 3.0, dataset="cifar10"),
                  retrained(1, 3.0) | {"run_id": "short"})
    short = results.load(tmp_path / "records", None)
    assert len(found) == len(short) == 2
    table = paper_tables(found, "darts", "cifar10")[0]
    row = rows(table, "DARTS (first order)")[1]
    assert row.text["gap"].startswith("not comparable") and "gap" not in row.value
    assert "smoke (12 epochs, C=12, L=5); search smoke" in row.text["protocol"]


def test_a_shortened_protocol_is_not_compared(tmp_path: Path) -> None:
    settings = {**DARTS600, "evaluation.epochs": 50}
    found = frame(tmp_path, result("darts", 0, 9.0, dataset="cifar10", given=True, genotype=V1,
                                   cell="DARTS_V1", protocol="darts600", settings=settings))
    row = rows(paper_tables(found, "darts", "cifar10")[0], "DARTS_V1")[0]
    assert row.text["gap"] == "not comparable: epochs is 50, published 600"


def test_uncertain_numbers_are_never_shown_as_fact(tmp_path: Path) -> None:
    empty = frame(tmp_path)
    low = paper_tables(empty, "asap", "cifar100")[0]
    for row in low.rows[1:]:
        assert row.text["error"] == "not verified" and not row.value
    shown = paper_tables(empty, "asap", "cifar100", unverified=True)[0]
    assert rows(shown, "ASAP")[0].text["error"] == "15.60†"
    missing = paper_tables(empty, "bayesnas", "mnist")[0]
    assert rows(missing, "LeNet-5 / BayesNAS")[0].text["error"] == "not available"
    medium = paper_tables(empty, "asap", "cifar10")[0]
    assert rows(medium, "PARSEC")[0].text["error"] == "2.81 ± 0.03†"
    assert any(note.startswith("†") for note in medium.notes)


def test_published_and_own_mult_adds_stand_side_by_side(tmp_path: Path) -> None:
    row = rows(paper_tables(frame(tmp_path), "darts", "imagenet")[0], "DARTS (searched")[0]
    assert row.text["mult_adds"] == "529.9" and row.text["mult_adds_published"] == "574"


def test_lambda_variants_answer_their_own_rows(tmp_path: Path) -> None:
    found = frame(tmp_path, *(
        result("bayesnas", 0, 3.0 - lam, dataset="cifar10", run_id=f"l{lam}",
               settings={"algorithm.lam": lam}, genotype=graph(int(lam * 1e4)))
        for lam in (0.01, 0.007)))
    table = paper_tables(found, "bayesnas", "cifar10")[0]
    names = [row.text["architecture"] for row in table.rows]
    at = names.index("BayesNAS + cutout + lambda_w^o=0.01")
    assert names[at + 1] == "BayesNAS (lam=0.01)" and names[at + 3] == "BayesNAS (lam=0.007)"


def test_a_new_algorithm_needs_no_entry_anywhere(tmp_path: Path) -> None:
    found = frame(tmp_path, *(result("sixth", s, 5.0 + s) for s in range(2)))
    assert [r.text["architecture"] for r in measured_tables(found)[0].rows] == [
        "Random search", "sixth"]
    assert rows_named(compare(found, "digits")[0], "sixth")


def test_members_of_a_family_keep_their_names(tmp_path: Path) -> None:
    content = result("cars", 0, 5.0, cell="CARS-A")
    found = frame(tmp_path, content, result("darts_plus", 0, 6.0, cell="DARTS"))
    names = {row.text["architecture"] for row in measured_tables(found)[0].rows}
    assert names == {"Random search", "CARS-A", "DARTS+"}


def rows_named(table: Table, name: str) -> list[Row]:
    return [row for row in table.rows if row.text.get("algorithm") == name]


def test_errors_are_one_clear_line(tmp_path: Path) -> None:
    empty = frame(tmp_path)
    with pytest.raises(ValueError, match="unknown paper 'x'; known: darts, "):
        paper_tables(empty, "x")
    with pytest.raises(ValueError, match="neither published nor measured rows of asap; published:"):
        paper_tables(empty, "asap", "digits")
    with pytest.raises(ValueError, match="no measured rows on digits"):
        measured_tables(empty, "digits")
    with pytest.raises(ValueError, match="no measured searches on digits"):
        compare(empty, "digits")
    with pytest.raises(ValueError, match="format: must be one of"):
        render([], "pdf")


# -- comparison ------------------------------------------------------------------------------------

def test_compare_is_paired_over_seeds(tmp_path: Path) -> None:
    sampling = {"algorithm.candidates": 1}
    found = frame(tmp_path,
                  *(result("random", s, 6.0 + s, settings=sampling) for s in range(5)),
                  *(result("alpha", s, 5.0 + s - 0.1 * s) for s in range(1, 6)))
    table, pairs = compare(found, "digits")
    row = rows_named(table, "alpha")[0]
    assert row.text["n"] == "5" and row.text["difference"] == "-1.25 (n=4)"
    assert row.value["p"] == 2 / 16
    gain = relative_improvement(float(np.mean([5 + 0.9 * s for s in range(1, 6)])), 8.0)
    assert row.value["relative"] == pytest.approx(gain)
    assert row.text["tau"] == "1.00 (n=5)"  # the writer's supernet accuracy falls with the error
    assert pairs.rows[0].text["n"] == "4"


def test_only_pure_sampling_is_the_reference(tmp_path: Path) -> None:
    found = frame(tmp_path, result("alpha", 0, 5.0),
                  result("random", 0, 6.0, settings={"algorithm.candidates": 16}))
    table = compare(found, "digits")[0]
    assert table.rows[0].kind == "absent" and table.rows[0].text["error"] == "not measured yet"
    assert "difference" not in [c.key for c in table.columns]


def test_compare_never_mixes_protocols(tmp_path: Path) -> None:
    found = frame(tmp_path, result("alpha", 0, 5.0), result("beta", 0, 2.0, protocol="asap1500"))
    assert [len(rows) for rows in ([r for r in t.rows if r.kind == "measured"]
                                   for t in compare(found, "digits"))] == [1, 1]


# -- formats ---------------------------------------------------------------------------------------

@pytest.fixture
def tables(tmp_path: Path) -> list[Table]:
    other = result("darts", 1, 4.0, dataset="cifar10", run_id="a_b%c")
    return paper_tables(frame(tmp_path, retrained(0, 3.0), other), "darts")


def test_markdown_has_equal_cells_in_every_line(tables: list[Table]) -> None:
    for block in render(tables, "markdown").split("### ")[1:]:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
        assert len(lines) > 3


def test_csv_reads_back_with_plain_numbers(tables: list[Table]) -> None:
    lines = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    assert len(lines) == sum(len(table.rows) for table in tables)
    own = next(line for line in lines if line["architecture"] == "DARTS_V1")
    assert float(own["error_value"]) == 3.0 and own["kind"] == "measured"
    assert own["runs"] == "darts-cifar10-s0-given"


def test_latex_is_booktabs_and_compiles(tables: list[Table], tmp_path: Path) -> None:
    text = render(tables, "latex")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(tables)
    assert text.isascii()
    for block in text.split(r"\toprule")[1:]:
        body = block.split(r"\bottomrule")[0].strip().splitlines()
        cells = [line.replace(r"\&", "").count("&") for line in body if line != r"\midrule"]
        assert len(set(cells)) == 1 and all(line.endswith(r"\\") for line in body
                                            if line != r"\midrule")
    bare = text.replace("\\%", "").replace("\\_", "").replace("\\#", "").replace("\\&", "&")
    assert "#" not in bare and "_" not in bare
    if shutil.which("pdflatex") is None:
        pytest.skip("structure checked; pdflatex is not installed, so nothing was compiled")
    document = ("\\documentclass{article}\\usepackage[landscape]{geometry}\\usepackage{booktabs}"
                "\\begin{document}" + text + "\\end{document}")
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
                          cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_text_escapes_everything() -> None:
    assert latex_text("a_b & 5% ± {x}^2 \\ é") == (
        r"a\_b \& 5\% $\pm$ \{x\}\textasciicircum{}2 \textbackslash{} ?")


@pytest.mark.parametrize(("algorithm", "cell", "expected"), [
    ("darts_2nd", "DARTS, second order", "DARTS (second order)"),
    ("darts_plus", "DARTS+", "DARTS+"), ("cars", "CARS-A", "CARS-A"),
    ("random", "random (N=24)", "Random search (N=24)"),
    ("bayesnas", "BayesNAS (projection)", "BayesNAS (projection)")])
def test_a_row_is_named_once(tmp_path: Path, algorithm: str, cell: str, expected: str) -> None:
    groups = measured_groups(frame(tmp_path, result(algorithm, cell=cell)))
    assert [label(g) for g in groups if g.basis == SEARCHES] == [expected]
