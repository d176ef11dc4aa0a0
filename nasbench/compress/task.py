"""`python run.py task=compress compress=NAME`: a compression as a run with a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nasbench import data
from nasbench.build import construct
from nasbench.compress.loop import run
from nasbench.compress.settings import CompressSettings
from nasbench.interrupt import Interrupted
from nasbench.precision import Precision
from nasbench.session import Session
from nasbench.settings import HardwareSettings
from nasbench.setup_run import check_seed, hardware

Work = Callable[[Session, dict[str, Any] | None], None]


def compression(config: dict[str, Any]
                ) -> tuple[HardwareSettings, torch.device, Precision, Work,
                           Callable[[dict[str, Any]], bool]]:
    """Settings, device, precision, the work and whether a result holds it. Raises ValueError or
    FileNotFoundError before anything is written."""
    if config.get("compress") is None:
        raise ValueError("compress: name what to compress, such as compress=lenet_300_100")
    check_seed(config["seed"])
    place, device, precision = hardware(config)
    settings = construct(CompressSettings, config["compress"], "compress")
    dataset = construct(data.DatasetSettings, config["dataset"], "dataset")
    data.describe(dataset, test=True)

    def work(session: Session, state: dict[str, Any] | None) -> None:
        """Not resumable in the middle: an interrupted compression starts again."""
        splits = data.evaluation_data(dataset, device=device, workers=place.workers,
                                      channels_last=place.channels_last)
        epochs = settings.rounds * settings.epochs_per_round
        session.display.begin("compress", epochs, splits.train.steps_per_epoch(settings.batch_size),
                              0)

        def record(metrics: dict[str, Any]) -> None:
            session.record(metrics)
            if session.interrupt.received is not None:
                raise Interrupted(session.interrupt.received)

        found = run(settings, splits, config["seed"], device,
                    dataset.augmentation(cutout=0, policy=None), record)
        session.result["compress"] = found
        for method, row in found["summary"].items():
            spread = row["test_error_percent_std"]
            session.display.say(
                f"{method:10} test error {row['test_error_percent']:.2f} %"
                + (f" +- {spread:.2f}" if spread is not None else "")
                + f" (n={row['n']}), {row['sparsity_percent']:.1f} % zero, "
                  f"{row['params'] / 1e3:.1f} k parameters, "
                  f"{row['mult_adds'] / 1e6:.2f} M mult-adds")

    return place, device, precision, work, lambda result: result.get("compress") is not None
