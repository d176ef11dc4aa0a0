"""The report: one self-contained page that sorts, switches themes and says where a number is from.

The tests in a real browser run where Debian's `chromium` is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from results_writer import graph, result, write_record, write_run

from nasbench import results
from nasbench.cli_results import add_commands
from nasbench.plots import add_retrained, draw, inline_svg, run_figures, save_run_plots
from nasbench.plots.tradeoff import pareto_front
from nasbench.report import write_report
from nasbench.results.record import series
from nasbench.tables import paper_tables, render

VOID = {"meta", "link", "br", "img", "hr", "input"}
ONLY_TABLES = {"table", "caption", "thead", "tbody", "tr", "th", "td"}


class Checker(HTMLParser):
    """Well-formed, unique ids, no dead fragment links, nothing fetched from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.errors: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) != len(names):
            self.errors.append(f"{self.getpos()}: <{tag}> repeats an attribute")
        values = dict(attrs)
        if values.get("id") is not None:
            self.ids.append(str(values["id"]))
        for name in ("src", "href", "data", "srcset", "action"):
            target = values.get(name)
            if target is not None and target.startswith("#"):
                self.links.append(target[1:])
            elif target is not None and not target.startswith("data:"):
                self.errors.append(f"{self.getpos()}: <{tag} {name}={target}> leaves the page")
        if tag in ("tr", "td", "th") and self.open[-1] not in ONLY_TABLES:
            self.errors.append(f"{self.getpos()}: <{tag}> inside <{self.open[-1]}>")
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"{self.getpos()}: </{tag}> does not close what is open")


def check(text: str) -> Checker:
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.errors, checker.errors[:5]
    assert not checker.open
    doubles = {name for name in checker.ids if checker.ids.count(name) > 1}
    assert not doubles, sorted(doubles)[:5]
    assert set(checker.links) <= set(checker.ids), set(checker.links) - set(checker.ids)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert checker.tags["title"] == checker.tags["h1"] == checker.tags["main"] == 1
    return checker


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for seed in range(3):
        write_run(folder / "runs", result("darts", seed, 5.0 + seed))
        write_run(folder / "runs", result("random", seed, 6.0 + seed, cell="random (N=1)",
                                          settings={"algorithm.candidates": 1}))
    write_run(folder / "runs", result("<b>&\"x", 0, 4.0, run_id="odd-name"))
    write_run(folder / "runs", result("failing", 0, status="failed", error="<script>"))
    results.record(folder / "runs" / "darts-digits-s0", folder / "records")
    found = results.load(folder / "records", folder / "runs")
    return write_report(found, folder / "out" / "index.html")


def test_report_is_valid_and_self_contained(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    checker = check(text)
    assert checker.tags["svg"] >= 10 and checker.tags["figure"] >= 10
    assert "<b>&" not in text and "<script>" not in text.split("</script>")[-1]
    assert "failed: status is failed" in text  # what was left out is listed


def test_every_measured_number_links_to_its_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    measured = re.findall(r'<tr class="measured">.*?</tr>', text)
    with_source = [row for row in measured if "measured: seed" in row]
    assert len(with_source) >= 4
    assert all('href="#run-' in row for row in with_source)
    assert 'id="run-darts-digits-s0"' in text and "0123456789abcdef" in text
    assert "records/darts-digits-s0.json" in text


def test_report_without_measurements_shows_published_tables(tmp_path: Path) -> None:
    found = results.load(tmp_path / "none", tmp_path / "none")
    text = write_report(found, tmp_path / "index.html").read_text(encoding="utf-8")
    check(text)
    assert "ASAP-Large" in text and 'class="measured"' not in text


def test_an_unknown_operation_does_not_stop_the_report(tmp_path: Path) -> None:
    strange = graph(1)
    strange["normal"]["edges"][0][0] = "users_own_operation"
    write_record(tmp_path, result("alpha", 0, genotype=strange))
    check(write_report(results.load(tmp_path, None), tmp_path / "i.html").read_text("utf-8"))


def test_tables_as_html_are_a_valid_document(tmp_path: Path) -> None:
    write_record(tmp_path, result("darts", 0, 3.0, dataset="cifar10"))
    check(render(paper_tables(results.load(tmp_path, None), "darts"), "html"))


def test_commands_write_files(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    folder = page.parents[1]
    source = ["--records", str(folder / "records"), "--runs", str(folder / "runs")]
    for words in (["tables", "--format", "latex", "--output", str(tmp_path / "t.tex")],
                  ["tables", "--paper", "darts", "--dataset", "digits"],
                  ["compare", "--dataset", "digits", "--figures", str(tmp_path / "figures")],
                  ["report", "--output", str(tmp_path / "r.html"),
                   "--export", str(tmp_path / "rows.csv")]):
        options = parser.parse_args([*words, *source])
        assert options.handler(options) == 0
    out = capsys.readouterr()
    assert "left out (failed): " in out.err and "Random search (N=1)" in out.out
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert written == {"t.tex", "r.html", "rows.csv",
                       *(f"figures/digits_{name}.{kind}" for kind in ("svg", "png")
                         for name in ("error_params", "anytime"))}


def test_retrained_networks_are_put_on_the_figure_that_asks(tmp_path: Path) -> None:
    (tmp_path / "plots.json").write_text(json.dumps([
        {"name": "front", "retrained": "params", "series": {"front": [[5, 40.0]]}},
        {"name": "other", "series": {"a": [[0, 1]]}}]))
    add_retrained(tmp_path, [{"params": 7, "test_error_percent": 3.5},
                             {"params": 9, "test_error_percent": None}])
    first, second = json.loads((tmp_path / "plots.json").read_text())
    assert first["series"]["retrained (test error)"] == [[7, 3.5]]
    assert list(second["series"]) == ["a"]


def test_run_plots_from_journals_and_strategy(tmp_path: Path) -> None:
    run = write_run(tmp_path, result("alpha", 0))
    (run / "plots.json").unlink()
    spec = {"name": "front/of 3", "title": "Front", "x_label": "x", "y_label": "y",
            "kind": "scatter", "series": {"a": [(1, 2), (None, 3), (2, float("nan"))], "empty": []}}
    names = {path.name for path in save_run_plots(run, [spec])}
    assert names == {f"{name}.{kind}" for kind in ("svg", "png") for name in (
        "loss", "supernet_accuracy", "skip_connects", "live_operations", "test_error",
        "front_of_3", "architecture_weights", "edge_weights_0", "edge_weights_1")}
    assert all((run / "figures" / name).stat().st_size > 1000 for name in names)
    assert json.loads((run / "plots.json").read_text())[0]["name"] == "front/of 3"
    again = [{**spec, "retrained": "params"}, {**spec, "name": "other"}]
    save_run_plots(run, again)
    assert {path.stem for path in save_run_plots(run, retrained=True)} == {"test_error",
                                                                           "front_of_3"}


def test_architecture_figure_names_operations(tmp_path: Path) -> None:
    run = write_run(tmp_path, result("alpha", 0))
    names = ["none", "skip_connect", "sep_conv_3x3"]
    figures = run_figures(series(run), {"search_space": {"operations": names}})
    axes = figures["architecture_weights"].axes
    assert [a.get_title() for a in axes] == ["Architecture weights: normal cell",
                                             "Architecture weights: reduction cell"]
    lines = axes[0].get_lines()
    assert [line.get_label() for line in lines] == names
    assert list(lines[1].get_ydata()) == pytest.approx([0.3] * 4)
    skips = figures["skip_connects"].axes[0].get_lines()[0]
    assert list(skips.get_ydata()) == [0, 1, 2, 0]


def test_inline_svg_follows_the_page(tmp_path: Path) -> None:
    spec = {"name": "n", "title": "T", "x_label": "x", "y_label": "y", "series": {"s": [(0, 1)]}}
    one, two = (inline_svg(draw(spec), name, 'a "b"') for name in ("one", "two"))
    assert "currentColor" in one and "#000000" not in one and "&quot;b&quot;" in one
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (one, two)]
    assert ids[0] and not ids[0] & ids[1]


def test_pareto_front() -> None:
    points = [(3, 1), (1, 3), (2, 2), (2, 4), (3, 2), (1, 3)]
    assert pareto_front(points) == [(1, 3), (2, 2), (3, 1)]


# -- in a browser ----------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PROBE = """<script>
(function () {
  var out = {}, table = document.querySelector("table.sortable");
  function column(i) { return Array.from(table.tBodies[0].rows, r => r.cells[i].textContent); }
  var heads = Array.from(table.querySelectorAll("thead th"));
  var error = heads.findIndex(h => h.textContent.startsWith("Test error"));
  var button = heads[error].querySelector("button");
  button.focus(); out.focused = document.activeElement === button;
  button.click(); out.up = column(error); out.sorted = heads[error].getAttribute("aria-sort");
  button.click(); out.down = column(error);
  var theme = document.getElementById("theme");
  out.ground = [getComputedStyle(document.body).backgroundColor];
  theme.click(); out.ground.push(getComputedStyle(document.body).backgroundColor);
  out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  location.hash = document.querySelector('a[href^="#run-"]').getAttribute("href");
  var done = document.createElement("pre");
  done.id = "probe"; done.textContent = JSON.stringify(out);
  document.body.appendChild(done);
})();
</script>"""


@browser
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: Path, tmp_path: Path, width: int) -> None:
    copy = tmp_path / "probe.html"
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
         copy.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-500:]
    out = json.loads(found.group(1))
    numbers = [float(text.split(" ")[0]) for text in out["up"]]
    assert len(numbers) == 3 and numbers == sorted(numbers)
    assert out["sorted"] == "ascending" and out["focused"]
    assert out["down"] == out["up"][::-1]
    assert len(set(out["ground"])) == 2, "the theme button changes the ground"
    assert out["wide"] <= 0, "the page itself never scrolls sideways"
