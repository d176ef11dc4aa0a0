"""What makes two runs the same run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from search_spaces import load_genotype

# Nothing here changes a result: where files are, how much of the run to do, who watches.
LEFT_OUT = {"": ("run_dir", "stage", "logger"),
            "hardware": ("device", "threads", "workers", "checkpoint_seconds", "cuda_graphs",
                         "compile"),
            "dataset": ("root", "download"),
            "algorithm": ("paper", "smoke", "label"),
            "evaluation": ("export_onnx",)}


def canonical(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides results; a genotype by its content."""
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT[""]}
    for section, keys in LEFT_OUT.items():
        if isinstance(kept.get(section), dict):
            kept[section] = {k: v for k, v in kept[section].items() if k not in keys}
    given = kept.get("evaluation", {}).get("genotype")
    if given is not None:
        kept["evaluation"]["genotype"] = load_genotype(given)[1].to_dict()
    return kept


def fingerprint(config: dict[str, Any]) -> str:
    """16 hexadecimal digits of the canonical configuration's SHA-256."""
    text = json.dumps(canonical(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_name(config: dict[str, Any]) -> str:
    """`algorithm-dataset-protocol-sSEED-hash`, the folder's name."""
    if config["task"] == "compress":
        words = ["compress", config["compress"]["name"], config["dataset"]["name"]]
    elif config["evaluation"]["genotype"] is not None:
        name = load_genotype(config["evaluation"]["genotype"])[0]
        words = ["evaluate", name, config["dataset"]["name"], config["evaluation"]["protocol"]]
    else:
        words = [config["algorithm"]["name"], config["dataset"]["name"],
                 config["search"]["protocol"]]
    safe = ["".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words]
    return "-".join([*safe, f"s{config['seed']}", fingerprint(config)[:8]])
