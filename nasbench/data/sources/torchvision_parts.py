"""CIFAR, SVHN and the MNISTs: where torchvision's layout has them and how it reads them.

torchvision's classes insist on the test files even when only the training part is wanted. A search
must not so much as look at those, so each class is narrowed to the files of one part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..images import ArrayImages

FindPart = Callable[[Path, bool], "Part"]


@dataclass(frozen=True)
class Part:
    """The training or the test part. files: {name: MD5}, None where only the archive's is known.

    read: takes whether to download; raises whatever torchvision raises.
    """

    folder: Path
    files: dict[str, str | None]
    read: Callable[[bool], ArrayImages]

    def absent(self) -> list[str]:
        return [name for name in self.files if not (self.folder / name).is_file()]


def cifar(title: str) -> FindPart:
    """CIFAR10 or CIFAR100, in ``root/cifar-10-batches-py`` or right in ``root``."""

    def find(root: Path, train: bool) -> Part:
        original = _torchvision_class(title)
        files = dict(original.train_list if train else original.test_list)
        folder = _first_with([root / original.base_folder, root], next(iter(files)))
        # Given right as ``root``, the folder may have any name; else torchvision's own, to fetch
        # into.
        narrowed: dict[str, Any] = {
            "test_list" if train else "train_list": [],
            "base_folder": "" if folder == root else original.base_folder,
        }

        def read(download: bool) -> ArrayImages:
            made = type(title, (original,), narrowed)(root, train=train, download=download)
            return _images(made.data.transpose(0, 3, 1, 2), made.targets)

        return Part(folder, files | {original.meta["filename"]: original.meta["md5"]}, read)

    return find


def mnist(title: str) -> FindPart:
    """MNIST or FashionMNIST, in ``root/TITLE/raw``, or ``root`` is one of these two folders."""

    def find(root: Path, train: bool) -> Part:
        original = _torchvision_class(title)
        start = "train" if train else "t10k"
        resources = [entry for entry in original.resources if entry[0].startswith(start)]
        files: dict[str, str | None] = {name.removesuffix(".gz"): None for name, _ in resources}
        places = [root / title / "raw"]
        if title in root.absolute().parts[-2:]:
            # Only under its own name: MNIST and Fashion-MNIST have the same file names.
            places += [root / "raw", root]
        folder = _first_with(places, next(iter(files)))
        narrowed = {
            "resources": resources,
            "raw_folder": str(folder),
            "_check_legacy_exist": lambda self: False,
        }

        def read(download: bool) -> ArrayImages:
            made = type(title, (original,), narrowed)(root, train=train, download=download)
            return _images(made.data[:, None], made.targets)

        return Part(folder, files, read)

    return find


def svhn(root: Path, train: bool) -> Part:
    """SVHN without its ``extra`` part, in ``root`` or ``root/svhn``."""
    original = _torchvision_class("SVHN")
    part = "train" if train else "test"
    _, name, md5 = original.split_list[part]
    folder = _first_with([root, root / "svhn"], name)

    def read(download: bool) -> ArrayImages:
        made = original(folder, split=part, download=download)
        return _images(made.data, made.labels)

    return Part(folder, {name: md5}, read)


def _images(data: Any, labels: Any) -> ArrayImages:
    """data [N, C, H, W] bytes."""
    pixels = torch.as_tensor(data).contiguous()
    return ArrayImages(pixels, torch.as_tensor(np.asarray(labels)).long())


def _torchvision_class(title: str) -> Any:
    import torchvision.datasets  # a second of import time, so only where it is needed

    return getattr(torchvision.datasets, title)


def _first_with(folders: list[Path], name: str) -> Path:
    """The first folder that holds file ``name``, else the first of all, where it should be."""
    return next((folder for folder in folders if (folder / name).is_file()), folders[0])
