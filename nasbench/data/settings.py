"""The settings of a data set, as ``conf/dataset/NAME.yaml`` writes them, and what they may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .augmentation import Augmentation


@dataclass(frozen=True)
class DatasetSettings:
    """One data set. There are no defaults here: every value stands in ``conf/dataset/NAME.yaml``.

    name: a key of ``nasbench.data.sources``.
    root: folder of the files; null takes the environment's NASBENCH_DATA, else ``data``.
    folder: name of the set's own folder inside ``root``, for sets that are plain folders.
    download: fetch missing files where torchvision can.
    classes, image_size: null infers them from the folders; edge in pixels.
    channels: 1 or 3.
    mean, std: per channel, of pixels scaled to [0, 1]; null computes them from the training images.
    crop_padding, flip: training augmentation, pixels of zero padding and left-right flip.
    resize: shorter edge in pixels before the centre crop; null means ``image_size``.
    random_resized_crop, color_jitter: ImageNet training augmentation, worker pipeline only;
        the jitter is [brightness, contrast, saturation, hue].
    split_seed: alone decides which images are search_train and which search_valid.
    resident: true keeps all images as uint8 on the device, false decodes them in workers.
    limit_train, limit_test: use at most so many images, drawn by ``split_seed``; null is all.

    Raises ValueError that names the key and what would be right.
    """

    name: str
    root: str | None
    folder: str | None
    download: bool
    classes: int | None
    image_size: int | None
    channels: int
    mean: list[float] | None
    std: list[float] | None
    crop_padding: int
    flip: bool
    resize: int | None
    random_resized_crop: bool
    color_jitter: list[float] | None
    split_seed: int
    resident: bool
    limit_train: int | None
    limit_test: int | None

    def __post_init__(self) -> None:
        for key in ("name", "root", "folder"):
            value = getattr(self, key)
            if not (isinstance(value, str) and value or value is None and key != "name"):
                _refuse(key, value, "a text" + ("" if key == "name" else " or null"))
        for key in ("download", "flip", "random_resized_crop", "resident"):
            if not isinstance(getattr(self, key), bool):
                _refuse(key, getattr(self, key), "true or false")
        for key, least in (("crop_padding", 0), ("split_seed", 0)):
            if not _whole(getattr(self, key), least):
                _refuse(key, getattr(self, key), f"a whole number of at least {least}")
        optional = (
            ("classes", 2),
            ("image_size", 1),
            ("resize", 1),
            ("limit_train", 2),
            ("limit_test", 1),
        )
        for key, least in optional:
            if getattr(self, key) is not None and not _whole(getattr(self, key), least):
                _refuse(key, getattr(self, key), f"null or a whole number of at least {least}")
        if self.channels not in (1, 3) or isinstance(self.channels, bool):
            _refuse("channels", self.channels, "1 (grey) or 3 (colour)")
        self._check_normalisation()
        self._check_pipeline()

    def _check_normalisation(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                "dataset.mean: give both dataset.mean and dataset.std, or null for both"
            )
        for key, low, high in (("mean", 0.0, 1.0), ("std", 1e-6, 1.0)):
            value = getattr(self, key)
            if value is not None and not _numbers(value, self.channels, low, high):
                _refuse(key, value, f"null or {self.channels} numbers from {low:g} to {high:g}")

    def _check_pipeline(self) -> None:
        jitter = self.color_jitter
        if jitter is not None and not (_numbers(jitter, 4, 0.0, 10.0) and jitter[3] <= 0.5):
            _refuse(
                "color_jitter",
                jitter,
                "null or [brightness, contrast, saturation, hue], hue up to 0.5",
            )
        if self.resident and (self.random_resized_crop or jitter is not None):
            key = "random_resized_crop" if self.random_resized_crop else "color_jitter"
            raise ValueError(
                f"dataset.{key}: works on whole pictures, so it needs dataset.resident=false"
            )
        if self.image_size is None:
            if not self.resident or self.resize is not None:
                raise ValueError(
                    "dataset.image_size: must be given with dataset.resident=false "
                    "or dataset.resize"
                )
            return
        if self.crop_padding >= self.image_size:
            _refuse(
                "crop_padding",
                self.crop_padding,
                f"less than dataset.image_size ({self.image_size})",
            )
        if self.resize is not None and self.resize < self.image_size:
            _refuse("resize", self.resize, f"at least dataset.image_size ({self.image_size})")

    def folder_root(self, environ: Mapping[str, str]) -> Path:
        """Where the data is: ``root``, else NASBENCH_DATA of ``environ``, else ``data``."""
        return Path(self.root or environ.get("NASBENCH_DATA") or "data").expanduser()

    def augmentation(self, *, cutout: int, policy: str | None) -> Augmentation:
        """The training augmentation: crop and flip of this data set, the rest of the protocol."""
        return Augmentation(self.crop_padding, self.flip, cutout, policy)


def _refuse(key: str, value: Any, wanted: str) -> None:
    raise ValueError(f"dataset.{key}: must be {wanted}, not {value!r}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _numbers(value: Any, count: int, low: float, high: float) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(
            isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high
            for v in value
        )
    )
