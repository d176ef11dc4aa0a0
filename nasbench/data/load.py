"""From the settings of a data set to the splits of a search or of an evaluation."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from .images import Images
from .normalisation import Normaliser, pixel_statistics
from .partition import check_fractions, limited, search_partition
from .resident import ResidentSplit, require_room
from .settings import DatasetSettings
from .sources import source
from .split import DataInfo, Split
from .worker import Recipe, WorkerSplit


@dataclass(frozen=True)
class SearchData:
    """All that a search may see: two disjoint parts of the training images."""

    search_train: Split
    search_valid: Split
    info: DataInfo


@dataclass(frozen=True)
class EvaluationData:
    """All training images and the test images."""

    train: Split
    test: Split
    info: DataInfo


def describe(
    settings: DatasetSettings, *, test: bool = False, environ: Mapping[str, str] = os.environ
) -> DataInfo:
    """Classes, size and channels without reading the images.

    With ``test`` the test files must be there too: ask for that before a search whose cell is to be
    evaluated afterwards. mean and std are None where they are computed from the images.

    Raises FileNotFoundError that says which files are expected where (not under ``download``, which
    may still fetch them), ValueError if the settings contradict the data.
    """
    root = settings.folder_root(environ)
    info = source(settings.name).info(settings, root)
    if test:
        source(settings.name).require_test(settings, root)
    return info


def search_data(
    settings: DatasetSettings,
    *,
    valid_fraction: float,
    train_fraction: float | None,
    device: torch.device | str,
    workers: int,
    channels_last: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> SearchData:
    """The two splits of a search, from the training files alone.

    valid_fraction: share of the training images in search_valid; train_fraction: share in
    search_train, None for all the rest. workers: processes per live iterator of a worker pipeline,
    threads that read a resident set. channels_last: the memory format of the batches.

    Raises ValueError (settings, unreadable files) and FileNotFoundError, one line each.
    """
    check_fractions(valid_fraction, train_fraction)
    root = settings.folder_root(environ)
    origin = source(settings.name)
    info = origin.info(settings, root)
    images, info = _training(
        origin.training_images(settings, root, info), settings, info, device, workers
    )
    make = _SplitMaker(settings, info, torch.device(device), workers, channels_last)
    train, valid = search_partition(
        len(images.labels), settings.split_seed, valid_fraction, train_fraction
    )
    return SearchData(
        search_train=make("search_train", images.subset(train)),
        search_valid=make("search_valid", images.subset(valid)),
        info=info,
    )


def evaluation_data(
    settings: DatasetSettings,
    *,
    device: torch.device | str,
    workers: int,
    channels_last: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> EvaluationData:
    """All training images and the test images; arguments and errors as in ``search_data``."""
    root = settings.folder_root(environ)
    origin = source(settings.name)
    info = origin.info(settings, root)
    # Test first: if its files are missing, better to know before minutes of decoding.
    test = _limit(origin.test_images(settings, root, info), settings.limit_test, settings, "test")
    images, info = _training(
        origin.training_images(settings, root, info), settings, info, device, workers
    )
    make = _SplitMaker(settings, info, torch.device(device), workers, channels_last)
    return EvaluationData(train=make("train", images), test=make("test", test), info=info)


def _limit(images: Images, limit: int | None, settings: DatasetSettings, part: str) -> Images:
    n = len(images.labels)
    return images if limit is None else images.subset(limited(n, limit, settings.split_seed, part))


def _training(
    images: Images,
    settings: DatasetSettings,
    info: DataInfo,
    device: torch.device | str,
    workers: int,
) -> tuple[Images, DataInfo]:
    """The training images in use, decoded if they are to be resident; mean and std filled in."""
    images = _limit(images, settings.limit_train, settings, "train")
    if settings.resident:
        require_room(len(images.labels), info, torch.device(device))
        images = images.in_memory(workers)
    if info.mean is None:
        mean, std = pixel_statistics(images)
        info = replace(info, mean=mean, std=std)
    return images, info


@dataclass(frozen=True)
class _SplitMaker:
    """One kind of split for all parts of a data set."""

    settings: DatasetSettings
    info: DataInfo
    device: torch.device
    workers: int
    channels_last: bool

    def __call__(self, name: str, images: Images) -> Split:
        assert self.info.mean is not None and self.info.std is not None
        normalise = Normaliser(self.info.mean, self.info.std, self.device, self.channels_last)
        if self.settings.resident:
            held = images.in_memory(self.workers)
            return ResidentSplit(name, self.info, held.data, held.labels, normalise)
        jitter = self.settings.color_jitter
        recipe = Recipe(
            size=self.info.image_size,
            resize=self.settings.resize or self.info.image_size,
            random_resized_crop=self.settings.random_resized_crop,
            color_jitter=None if jitter is None else tuple(jitter),
        )
        return WorkerSplit(name, self.info, images, recipe, normalise, workers=self.workers)
