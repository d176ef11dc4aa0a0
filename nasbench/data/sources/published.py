"""Published sets of fixed size: the checks and the errors around what torchvision reads."""

from dataclasses import dataclass
from pathlib import Path

from ..images import ArrayImages
from ..settings import DatasetSettings
from ..split import DataInfo
from .base import make_info, missing, require_fixed
from .torchvision_parts import FindPart, Part


@dataclass(frozen=True)
class PublishedSet:
    """find: looks up the files of one part. The numbers are the data set's own."""

    find: FindPart
    classes: int
    image_size: int
    channels: int

    def info(self, settings: DatasetSettings, root: Path) -> DataInfo:
        require_fixed(
            settings, classes=self.classes, image_size=self.image_size, channels=self.channels
        )
        _require(self.find(root, True), settings)
        return make_info(settings, classes=self.classes, image_size=self.image_size)

    def require_test(self, settings: DatasetSettings, root: Path) -> None:
        _require(self.find(root, False), settings)

    def training_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> ArrayImages:
        return _read(self.find(root, True), settings)

    def test_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> ArrayImages:
        return _read(self.find(root, False), settings)


def _require(part: Part, settings: DatasetSettings) -> None:
    absent = part.absent()
    if absent and not settings.download:
        raise missing(settings, ", ".join(absent), part.folder, fetchable=True)


def _read(part: Part, settings: DatasetSettings) -> ArrayImages:
    _require(part, settings)
    try:
        return part.read(settings.download)
    except (RuntimeError, ValueError, OSError, AssertionError, TypeError, EOFError) as error:
        # torchvision says "not found or corrupted" for either: find out which, and of which file.
        raise _diagnosis(part, settings, error) from error


def _diagnosis(part: Part, settings: DatasetSettings, error: Exception) -> Exception:
    """What was wrong with the files, as one line."""
    from torchvision.datasets.utils import check_integrity

    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if part.absent():
        return FileNotFoundError(f"dataset.download: cannot fetch {settings.name} ({reason})")
    for name, md5 in part.files.items():
        if md5 is not None and not check_integrity(part.folder / name, md5):
            return ValueError(
                f"{part.folder / name}: not the published file (its MD5 is not {md5}); "
                "replace it, or remove it and use dataset.download=true"
            )
    names = ", ".join(part.files)
    return ValueError(f"{part.folder}: cannot read {names} ({reason}); replace these files")
