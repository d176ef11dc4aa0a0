"""How numbers of a row become text. Missing stays empty; nothing is invented."""

from __future__ import annotations

from nasbench.published import Published
from nasbench.tables.groups import Group
from nasbench.tables.table import Column

COLUMNS = [
    Column("architecture", "Architecture", numeric=False),
    Column("row", "Row", numeric=False),
    Column("error", "Test error (%)"),
    Column("n", "n"),
    Column("best", "Best (%)"),
    Column("top5", "Top-5 error (%)"),
    Column("params", "Params (M)"),
    Column("mult_adds", "Mult-adds, ours (M): convolution + linear, batch 1, no auxiliary head"),
    Column("mult_adds_published", "Mult-adds, published (M)"),
    Column("latency", "Latency (ms)"),
    Column("cost", "Search cost (published: GPU-days; ours: measured)"),
    Column("method", "Method", numeric=False),
    Column("protocol", "Protocol", numeric=False),
    Column("gap", "Gap to published"),
    Column("source", "Source", numeric=False),
]
DOUBTFUL = "†"


def spread(mean: float | None, std: float | None, digits: int = 2) -> str:
    """`2.76 ± 0.09`; without spread just the mean, empty without either."""
    if mean is None:
        return ""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def plain(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def printed(value: float | None, decimals: bool = False) -> str:
    """A published number as the paper prints it, as far as the data keeps that."""
    if value is None:
        return ""
    text = f"{value:g}"
    return f"{value:.1f}" if decimals and "." not in text else text


def published_text(row: Published) -> tuple[dict[str, str], dict[str, float]]:
    """Cells of a published row (no protocol, gap or our own counts)."""
    mark = DOUBTFUL if row.confidence in ("medium", "low") else ""
    error = spread(row.error_percent, row.error_std)
    params = printed(row.params_millions, decimals=True) + (
        "" if row.params_std is None else f" ± {printed(row.params_std)}")
    text = {"error": error, "best": plain(row.error_best_percent),
            "top5": plain(row.top5_error_percent, 1), "params": params,
            "mult_adds_published": printed(row.mult_adds_millions),
            "latency": printed(row.latency_ms), "cost": printed(row.search_cost_gpu_days)}
    text = {key: value + mark if value else value for key, value in text.items()}
    values = {"error": row.error_percent, "best": row.error_best_percent,
              "top5": row.top5_error_percent, "params": row.params_millions,
              "mult_adds_published": row.mult_adds_millions, "latency": row.latency_ms,
              "cost": row.search_cost_gpu_days}
    return text, {key: value for key, value in values.items() if value is not None}


def withheld_text(row: Published) -> dict[str, str]:
    """Instead of numbers that must not be shown as fact."""
    return {"error": "not available" if row.confidence == "missing" else "not verified"}


def measured_text(group: Group) -> tuple[dict[str, str], dict[str, float]]:
    """Cells of a measured row (no label, method or gap)."""
    summary = group.summary
    params, params_std = group.mean("params"), None
    if params is not None and len(set(group.frame["params"].dropna())) > 1:
        params_std = float(group.frame["params"].dropna().astype(float).std()) / 1e6
    mult_adds = group.mean("mult_adds")
    values = {"error": summary.mean, "n": float(summary.n), "best": summary.best,
              "params": None if params is None else params / 1e6,
              "mult_adds": None if mult_adds is None else mult_adds / 1e6,
              "cost": group.mean("gpu_days")}
    text = {"error": spread(summary.mean, summary.std), "n": str(summary.n),
            "best": plain(summary.best), "params": spread(values["params"], params_std, 3),
            "mult_adds": plain(values["mult_adds"], 1), "cost": search_cost(group),
            "protocol": group.protocol_text, "row": group.basis, "source": provenance(group)}
    return text, {key: value for key, value in values.items() if value is not None}


def search_cost(group: Group) -> str:
    """`0.31 GPU-days (NVIDIA H100)`, on a CPU `4.2 min (its name)`; empty for a given cell."""
    days, seconds = group.mean("gpu_days"), group.mean("search_seconds")
    if days is not None:
        return f"{days:.3g} GPU-days ({group.devices})"
    if seconds is None:
        return ""
    time = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min" if seconds < 5400 \
        else f"{seconds / 3600:.1f} h"
    return f"{time} ({group.devices})"


def provenance(group: Group) -> str:
    """`measured: seeds 0-2; NVIDIA H100; 3f2a91c`."""
    commits = sorted({str(c)[:7] for c in group.frame["commit"].dropna()})
    seeds = "seeds" if len(set(group.seeds)) > 1 else "seed"
    words = [f"{seeds} {ranges(group.seeds)}", group.devices,
             ", ".join(commits[:3]) + (", ..." if len(commits) > 3 else "")]
    return "measured: " + "; ".join(word for word in words if word)


def ranges(seeds: list[int]) -> str:
    """`0-2, 7`."""
    out: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if out and seed == out[-1][1] + 1:
            out[-1][1] = seed
        else:
            out.append([seed, seed])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in out[:6]]
    return ", ".join(shown) + (", ..." if len(out) > 6 else "")
