"""`python -m nasbench COMMAND`: describe, draw, zoo, runs, and what concerns results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nasbench import cli_results


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 after one line `error: ...`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:  # the same as run.py, from an installed package
        from nasbench.configuration import main as run_main
        return run_main(words[1:])
    parser = _parser()
    options = parser.parse_args(words)
    try:
        return options.handler(options) or 0
    except BrokenPipeError:
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nasbench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    commands.add_parser("run", help="search, retrain and record; the same as `python run.py`")

    one = commands.add_parser("describe", help="exact sizes of final networks, as JSON")
    one.add_argument("cells", nargs="+", metavar="NAME_OR_FILE")
    one.add_argument("--dataset", default="cifar10", help="sets classes, size and channels")
    one.add_argument("--channels", type=int, help="default 36, or 48 from 97 pixels on")
    one.add_argument("--cells", type=int, dest="depth", help="default 20, or 14 from 97 pixels on")
    one.add_argument("--input-size", type=int, help="image edge in pixels")
    one.add_argument("--classes", type=int, help="default: those of the data set")
    one.add_argument("--auxiliary", action="store_true", help="also count the auxiliary head")
    one.set_defaults(handler=_describe)

    drawing = commands.add_parser("draw", help="draw a cell pair as SVG or PNG")
    drawing.add_argument("cell", metavar="NAME_OR_FILE")
    drawing.add_argument("-o", "--output", required=True, type=Path)
    drawing.set_defaults(handler=_draw)

    commands.add_parser("zoo", help="list the published cells").set_defaults(handler=_zoo)

    runs = commands.add_parser("runs", help="list runs with status, progress and result")
    runs.add_argument("folder", nargs="?", type=Path, default=Path("results/runs"))
    runs.set_defaults(handler=_runs)
    cli_results.add_commands(commands)
    return parser


def _describe(options: argparse.Namespace) -> int:
    import torch

    from nasbench.configuration import compose
    from nasbench.measure import count_params, sizes
    from search_spaces import FinalNetwork, load_genotypes

    dataset = compose([f"dataset={options.dataset}"])["dataset"]
    size = dataset["image_size"] if options.input_size is None else options.input_size
    classes = dataset["classes"] if options.classes is None else options.classes
    if size is None or classes is None:
        raise ValueError(f"--dataset {options.dataset}: its files decide the size and the classes; "
                         "give --input-size and --classes")
    large = size > 96
    channels = (48 if large else 36) if options.channels is None else options.channels
    depth = (14 if large else 20) if options.depth is None else options.depth
    found = []
    for name, genotype in [pair for cell in options.cells for pair in load_genotypes(cell)]:
        with torch.device("meta"):
            network = FinalNetwork(genotype, channels, depth, classes, image_size=size,
                                   in_channels=dataset["channels"], auxiliary=options.auxiliary)
        whole = count_params(network, auxiliary=True) if options.auxiliary else None
        counted = sizes(network, dataset["channels"], size)
        found.append({"name": name, "params": counted["params"], "params_with_auxiliary": whole,
                      "mult_adds": counted["mult_adds"], "cells": depth, "channels": channels,
                      "input_size": size})
    print(json.dumps(found, indent=2))
    return 0


def _draw(options: argparse.Namespace) -> int:
    from nasbench.draw import draw_genotype
    from nasbench.plots import save
    from search_spaces import load_genotype

    suffix = options.output.suffix
    if suffix not in (".svg", ".png"):
        raise ValueError(f"{options.output}: must end in .svg or .png")
    name, genotype = load_genotype(options.cell)
    save(draw_genotype(genotype, name), options.output.with_suffix(""), (suffix,))
    print(options.output)
    return 0


def _zoo(options: argparse.Namespace) -> int:
    from search_spaces import zoo

    for name, record in zoo().items():
        print(f"{name:24} {record.get('paper', record.get('source', ''))}")
    return 0


def _runs(options: argparse.Namespace) -> int:
    from nasbench.overview import list_runs

    for line in list_runs(options.folder):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
