"""One run from configuration to result: search, derive, retrain, record; or continue."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nasbench import checkpoint, data, machine
from nasbench.display import Display, summary_rows
from nasbench.export import save_model
from nasbench.identity import fingerprint, run_name
from nasbench.interrupt import Interrupt, Interrupted
from nasbench.loggers import open_logger
from nasbench.measure import FinalMeasures
from nasbench.retrain.loop import RetrainLoop
from nasbench.run_folder import RESULT_SCHEMA, RunFolder, now, write_json
from nasbench.run_log import logging_to
from nasbench.search.loop import SearchLoop
from nasbench.session import Session
from nasbench.settings import require
from nasbench.setup_run import Parts, prepare
from search_spaces import Cell, Genotype, SearchNetwork
from search_spaces.darts.fast import choose, implementation_of
from search_spaces.diagnosis import collapse_warning, diagnosis_plots, order_stable_since

log = logging.getLogger("nasbench")
TOP_LEVEL = ("task", "stage", "seed", "run_dir", "early_stop", "algorithm", "search", "evaluation",
             "dataset", "search_space", "hardware", "logger", "compress")
Work = Callable[[Session, dict[str, Any] | None], None]


def execute(config: dict[str, Any], display: Display | None = None) -> dict[str, Any]:
    """Run, continue or report a finished run; returns the content of `result.json`.

    config: the resolved configuration as plain Python. Raises ValueError or OSError for the user's
    mistakes, Interrupted after Ctrl-C or SIGTERM (everything saved).
    """
    display = display or Display()
    for key in config:
        require(key in TOP_LEVEL, key, f"one of {', '.join(TOP_LEVEL)}", key)
    require(config["run_dir"] is None or isinstance(config["run_dir"], str), "run_dir",
            "a folder's path or null", config["run_dir"])
    if config["task"] == "compress":
        from nasbench.compress.task import compression
        hardware, device, precision, work, finished = compression(config)
    elif config["task"] == "search":
        parts = prepare(config)
        hardware, device, precision = parts.hardware, parts.device, parts.precision
        work, finished = (lambda s, state: search_and_retrain(s, state, parts)), _finished(parts)
    else:
        raise ValueError(f"task: must be search or compress, got {config['task']!r}")
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    precision.apply()
    identity = fingerprint(config)
    path = run_path(config)
    folder = RunFolder(path, identity)
    with folder.locked(), logging_to(path / "log.txt", display):
        previous = folder.read_result()
        if previous and previous["status"] == "done" and finished(previous):
            display.say(f"{path}: already finished; showing its result (remove the folder to run "
                        "it again)")
            display.summary(previous, str(path))
            return previous
        state = folder.load()
        result = state["result"] if state else \
            _new_result(config, path.name, device, precision.name)
        result |= {"status": "running", "finished": None, "error": None}
        write_json(path / "config.json", config)
        machine.reset_peak_memory(device)
        logger = open_logger(config["logger"]["name"], path, config)
        interrupt = Interrupt()
        session = Session(folder, hardware, device, precision, display, logger, interrupt, result)
        display.say(f"{'continuing' if state else 'starting'} {path} on "
                    f"{result['hardware']['name']}")
        folder.write_result(result)
        with interrupt.watching(), _outcome(session):
            work(session, state)
            logger.table("cells", *summary_rows(result))
            logger.artifact(path / "figures")
        display.summary(result, str(path))
        return result


def run_path(config: dict[str, Any]) -> Path:
    """`run_dir`, or results/runs/NAME."""
    return Path(config["run_dir"] or Path("results/runs") / run_name(config))


def record_failure(config: dict[str, Any], error: str) -> None:
    """Leave a result with `status: failed` for a run that was refused before it had a folder."""
    path = run_path(config)
    if not (path / "result.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path, fingerprint(config))
        (path / "identity").write_text(folder.identity + "\n", encoding="utf-8")
        result = _new_result(config, path.name, torch.device("cpu"), "float32")
        folder.write_result(result | {"status": "failed", "error": error, "finished": now()})


def _finished(parts: Parts) -> Callable[[dict[str, Any]], bool]:
    """Whether a result holds all that this stage asks for."""
    def finished(result: dict[str, Any]) -> bool:
        if parts.stage == "search":
            return result["search"] is not None
        cells = 1 if parts.given else len((result["search"] or {}).get("genotypes", []))
        return cells > 0 and len(result["evaluation"]) >= cells * parts.evaluation.repeats
    return finished


def search_and_retrain(session: Session, state: dict[str, Any] | None, parts: Parts) -> None:
    """The search and evaluation phases, from wherever `state` left them."""
    result = session.result
    if parts.stage == "evaluate" and parts.given is None and result["search"] is None:
        raise ValueError("stage=evaluate: nothing has been searched in this run folder; run "
                         "stage=search first or give evaluation.genotype")
    if parts.stage == "all" and result["search"] is None:
        # What retraining would refuse must not come out after the search.
        _evaluation_splits(session, parts).train.steps_per_epoch(parts.evaluation.batch_size)
    if parts.stage != "evaluate" and result["search"] is None:
        _search(session, state if state and state["phase"] == "search" else None, parts)
        state = None
    if parts.stage != "search":
        _evaluate(session, state, parts)


def _search(session: Session, state: dict[str, Any] | None, parts: Parts) -> None:
    channels_last = parts.hardware.channels_last
    splits = data.search_data(
        parts.dataset, valid_fraction=parts.search.valid_fraction,
        train_fraction=parts.search.train_fraction, device=session.device,
        workers=parts.hardware.workers, channels_last=channels_last)
    torch.manual_seed(data.derive_seed(parts.seed, "supernet"))
    network = parts.search_network(_network_class(parts, state)).to(session.device)
    log.info("search network: %s", implementation_of(network))
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    measures = FinalMeasures(parts.final_network, parts.info.channels, parts.info.image_size,
                             torch.device(parts.strategy.latency_device or session.device))
    augmentation = parts.dataset.augmentation(cutout=parts.search.cutout, policy=None)
    torch.manual_seed(data.derive_seed(parts.seed, "search"))
    loop = SearchLoop(session, parts.search, network, parts.strategy, parts.early_stop, splits,
                      augmentation, measures, parts.seed)
    if state is not None:
        loop.load_state_dict(state)
        session.restore_generators(state)
    found = loop.run()
    weights = _architecture_weights(session)
    found["learnable_order_stable_since"] = order_stable_since(weights, parts.space,
                                                               network.row_types)
    session.result["search"] = found
    checkpoint.write(session.folder.path / "supernet.pt",
                     {"network": network.state_dict(), "strategy": parts.strategy.state_dict()})
    session.save({"phase": "evaluate-next"})
    session.folder.write_result(session.result)
    _report_search(session, parts, network)


def _network_class(parts: Parts, state: dict[str, Any] | None) -> type[SearchNetwork]:
    """As configured, or the one that an interrupted search began with."""
    if state is None:
        wanted = parts.space_settings.implementation
        if wanted == "auto" and parts.plain_only:
            log.warning("hardware.precision=bfloat16 runs the plain search network on a CPU; "
                        "float32 would be faster")
            wanted = "plain"
        return choose(wanted, parts.device)
    try:
        return choose(state["implementation"], parts.device)
    except ValueError as error:
        raise ValueError(f"this search began with the {state['implementation']} network and goes "
                         "on with it only; restore what it needs, or start anew in another run_dir "
                         f"with search_space.implementation=plain: {error}") from None


def _architecture_weights(session: Session) -> list[torch.Tensor]:
    """After every epoch, [rows, edges, operations]."""
    return [torch.tensor(line["weights"]) for line in session.folder.read("architecture.jsonl")]


def _report_search(session: Session, parts: Parts, network: SearchNetwork) -> None:
    from nasbench import draw, plots  # matplotlib: not before the first step

    folder = session.folder.path
    for i, found in enumerate(session.result["search"]["genotypes"]):
        genotype = Genotype.from_dict(found["genotype"])
        write_json(folder / f"genotype-{i}.json", found)
        for path in plots.save(draw.draw_genotype(genotype, found["name"]), folder / f"cells-{i}"):
            session.logger.artifact(path)
        warning = collapse_warning(genotype)
        if warning:
            session.display.say(f"warning: {found['name']}: {warning}")
        own = found.get("cells")  # architecture parameters of their own in every cell
        if own:
            graphs = [(f"cell {j}", Cell(tuple(map(tuple, c["edges"])), tuple(c["concat"])))
                      for j, c in enumerate(own)]
            plots.save(draw.draw_cells(graphs, found["name"]), folder / f"cells-{i}-each")
    journal = session.folder.read("genotypes.jsonl")
    figures = diagnosis_plots([Genotype.from_dict(line["genotype"]) for line in journal],
                              _architecture_weights(session), parts.space, network.row_types)
    plots.save_run_plots(folder, [
        *figures, *parts.strategy.plots(session.folder.read("metrics.jsonl"))])


def _evaluate(session: Session, state: dict[str, Any] | None, parts: Parts) -> None:
    evaluation, result = parts.evaluation, session.result
    if parts.given:
        cells = [parts.given]
    else:
        cells = [(g["name"], Genotype.from_dict(g["genotype"]))
                 for g in result["search"]["genotypes"]]
    plan = [(name, genotype, repeat) for name, genotype in cells
            for repeat in range(evaluation.repeats)]
    splits = _evaluation_splits(session, parts)
    augmentation = parts.dataset.augmentation(cutout=evaluation.cutout, policy=evaluation.policy)
    for index, (name, genotype, repeat) in enumerate(plan):
        if index < len(result["evaluation"]):
            continue
        machine.reset_peak_memory(session.device)
        seed = data.derive_seed(parts.seed, "evaluation", repeat)
        torch.manual_seed(seed)
        network = parts.final_network(genotype, training=True).to(session.device)
        if parts.hardware.channels_last:
            network = network.to(memory_format=torch.channels_last)
        loop = RetrainLoop(session, evaluation, network, splits, augmentation, seed,
                           {"genotype": {"name": name, **genotype.to_dict()}, "repeat": repeat})
        if state is not None and state["phase"] == "evaluate":
            loop.load_state_dict(state)
            session.restore_generators(state)
        state = None
        result["evaluation"].append(loop.run())
        save_model(session.folder.path / f"model-{index}", network, genotype, parts)
        del loop, network  # before the next is built
        session.save({"phase": "evaluate-next"})
        session.folder.write_result(result)
    from nasbench import plots

    plots.add_retrained(session.folder.path, result["evaluation"])
    plots.save_run_plots(session.folder.path, retrained=True)


def _evaluation_splits(session: Session, parts: Parts) -> data.EvaluationData:
    """Training and test images; under `evaluation.holdout` the two search splits in their place."""
    place: dict[str, Any] = {
        "device": session.device, "workers": parts.hardware.workers,
        "channels_last": parts.hardware.channels_last}
    if not parts.evaluation.holdout:
        return data.evaluation_data(parts.dataset, **place)
    found = data.search_data(parts.dataset, valid_fraction=parts.search.valid_fraction,
                             train_fraction=parts.search.train_fraction, **place)
    return data.EvaluationData(found.search_train, found.search_valid, found.info)


def _new_result(config: dict[str, Any], run_id: str, device: torch.device, precision: str
                ) -> dict[str, Any]:
    return {"schema": RESULT_SCHEMA, "status": "running", "error": None, "run_id": run_id,
            "algorithm": config["compress"]["name"] if config["task"] == "compress"
            else config["algorithm"]["name"], "dataset": config["dataset"]["name"],
            "seed": config["seed"], "config": config, "commit": machine.commit(),
            "versions": machine.versions(),
            "hardware": machine.describe_hardware(device) | {"precision": precision},
            "started": now(), "finished": None, "search": None, "evaluation": []}


@contextmanager
def _outcome(session: Session) -> Iterator[None]:
    """Whatever ends the work is written to result.json; running out of memory becomes advice."""
    result = session.result
    try:
        yield
        result["status"] = "done"
    except (Interrupted, KeyboardInterrupt) as error:
        result |= {"status": "interrupted", "error": f"interrupted by {error or 'SIGINT'}"}
        raise
    except BaseException as error:
        log.error("%s", traceback.format_exc())
        advice = _out_of_memory(error)
        result |= {"status": "failed",
                   "error": advice or str(error) or type(error).__name__}
        if advice:
            raise ValueError(advice) from None
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(session.folder.path)) from None
        raise
    finally:
        session.display.end()
        result["finished"] = now()
        session.folder.write_result(result)
        session.logger.artifact(session.folder.result_path)
        session.logger.close(failed=result["status"] == "failed")


def _out_of_memory(error: BaseException) -> str | None:
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return ("out of memory; lower search.batch_size, search.channels, evaluation.batch_size or "
                "evaluation.channels or, on a GPU, set hardware.precision=bfloat16 or "
                "hardware.cuda_graphs=false")
    return None
