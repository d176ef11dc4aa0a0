"""The handwritten digits that come with scikit-learn: 1797 grey 8x8 images, no file needed.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, test part), 0..16
per pixel.

The set has no test part of its own. Here one fifth of every class is the test part: the fifth with
the largest hash of its index, a choice that depends on no library's random stream.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..images import ArrayImages
from ..seeds import derive_seed
from ..settings import DatasetSettings
from ..split import DataInfo
from .base import make_info, require_fixed


class Digits:
    """10 classes; 1442 training and 355 test images."""

    def info(self, settings: DatasetSettings, root: Path) -> DataInfo:
        require_fixed(settings, classes=10, image_size=8, channels=1)
        return make_info(settings, classes=10, image_size=8)

    def require_test(self, settings: DatasetSettings, root: Path) -> None:
        pass

    def training_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> ArrayImages:
        images = _all_digits()
        return images.subset(_in_test(images.labels).logical_not().nonzero()[:, 0])

    def test_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> ArrayImages:
        images = _all_digits()
        return images.subset(_in_test(images.labels).nonzero()[:, 0])


def _all_digits() -> ArrayImages:
    from sklearn.datasets import load_digits  # a second of import time, so only where it is needed

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images)[:, None].mul(255 / 16).round().to(torch.uint8)
    return ArrayImages(pixels, torch.from_numpy(bunch.target).long())


def _in_test(labels: Tensor) -> Tensor:
    """bool [N]: which images are the test part."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0].tolist()
        members.sort(key=lambda index: derive_seed("digits test part", index))
        chosen[members[len(members) - len(members) // 5 :]] = True
    return chosen
