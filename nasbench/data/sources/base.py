"""What a source has to offer, and the checks that several sources share."""

from pathlib import Path
from typing import Protocol

from ..images import Images
from ..settings import DatasetSettings
from ..split import DataInfo


class Source(Protocol):
    """One data set on disk. Training and test images come from separate methods, so that whoever is
    handed the first cannot reach the second."""

    def info(self, settings: DatasetSettings, root: Path) -> DataInfo:
        """Cheap. FileNotFoundError if training files are missing, ValueError if they contradict."""

    def require_test(self, settings: DatasetSettings, root: Path) -> None:
        """FileNotFoundError if test files are missing; opens nothing."""

    def training_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> Images: ...

    def test_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> Images: ...


def make_info(settings: DatasetSettings, *, classes: int, image_size: int) -> DataInfo:
    """What the settings and the files say together."""
    mean, std = settings.mean, settings.std
    return DataInfo(
        name=settings.name,
        classes=classes,
        image_size=image_size,
        channels=settings.channels,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
    )


def require_fixed(settings: DatasetSettings, **fixed: int) -> None:
    """ValueError if the settings ask for something else than what this set has by nature."""
    for key, value in fixed.items():
        asked = getattr(settings, key)
        if asked not in (None, value):
            raise ValueError(
                f"dataset.{key}: must be {value} (or null) for {settings.name}, not {asked}"
            )


def require_classes(settings: DatasetSettings, found: list[str], folder: Path) -> None:
    """ValueError if the class folders found are too few or not as many as ``classes`` says."""
    if len(found) < 2:
        raise ValueError(
            f"dataset.root: {folder} needs at least two class folders, has {len(found)}"
        )
    if settings.classes not in (None, len(found)):
        raise ValueError(
            f"dataset.classes: {folder} has {len(found)} class folders, not {settings.classes}; "
            "use dataset.classes=null to take what is there"
        )


def missing(
    settings: DatasetSettings, expected: str, folder: Path, *, fetchable: bool = False
) -> FileNotFoundError:
    """The error for files that are not where they should be."""
    ways = "set dataset.root or NASBENCH_DATA to where they are"
    if fetchable:
        ways += ", or dataset.download=true to fetch them"
    elif settings.download:
        ways += f" (dataset.download cannot fetch {settings.name})"
    return FileNotFoundError(f"dataset.root: {settings.name} needs {expected} in {folder}; {ways}")
