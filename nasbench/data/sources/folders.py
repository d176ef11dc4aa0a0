"""Folders of images, one per class: ImageNet, or the user's own pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..images import FileImages, read_picture
from ..settings import DatasetSettings
from ..split import DataInfo
from .base import make_info, missing, require_classes

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


@dataclass(frozen=True)
class ClassFolders:
    """``FOLDER/train/<class>/...`` and ``FOLDER/test/<class>/...``, under these two names."""

    train: str
    test: str

    def info(self, settings: DatasetSettings, root: Path) -> DataInfo:
        folder = self._folder(settings, root) / self.train
        classes = class_folders(folder)
        require_classes(settings, classes, folder)
        size = settings.image_size or _size_of_first(folder, settings.channels)
        return make_info(settings, classes=len(classes), image_size=size)

    def require_test(self, settings: DatasetSettings, root: Path) -> None:
        folder = self._folder(settings, root)
        if not class_folders(folder / self.test):
            raise missing(settings, f"{self.test}/<class>/<image>", folder)

    def training_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> FileImages:
        folder = self._folder(settings, root) / self.train
        return scan(folder, class_folders(folder), settings, info)

    def test_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> FileImages:
        self.require_test(settings, root)
        folder = self._folder(settings, root)
        classes = class_folders(folder / self.train)
        unknown = sorted(set(class_folders(folder / self.test)) - set(classes))
        if unknown:
            raise ValueError(
                f"{folder / self.test / unknown[0]}: {folder / self.train} has no such class"
            )
        return scan(folder / self.test, classes, settings, info, may_lack=True)

    def _folder(self, settings: DatasetSettings, root: Path) -> Path:
        folder = locate(settings, root, self.train)
        if (folder / self.train).is_dir():
            return folder
        expected = f"{self.train}/<class>/<image> and {self.test}/<class>/<image>"
        found = class_folders(folder)
        if found and any(image_files(folder)):
            expected += f" (there are class folders such as {found[0]}, but no {self.train} folder)"
        raise missing(settings, expected, folder)


def locate(settings: DatasetSettings, root: Path, marker: str) -> Path:
    """The set's own folder: ``root/folder``, or ``root`` itself if it holds ``marker``."""
    if settings.folder is None:
        return root
    folder = root / settings.folder
    return root if not folder.is_dir() and (root / marker).exists() else folder


def class_folders(folder: Path) -> list[str]:
    """Names of the folders inside ``folder``, sorted; their places are the labels."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def image_files(folder: Path) -> Iterator[Path]:
    """Image files under ``folder`` at any depth, in the same order on every file system."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(where, name)


def scan(
    folder: Path,
    classes: list[str],
    settings: DatasetSettings,
    info: DataInfo,
    *,
    may_lack: bool = False,
) -> FileImages:
    """All images of ``folder/<class>``; ValueError for a class without, unless it ``may_lack``."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = list(image_files(folder / name))
        if not found and not may_lack:
            raise ValueError(f"{folder / name}: holds no images ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    return make_images(paths, labels, settings, info)


def make_images(
    paths: list[Path], labels: list[int], settings: DatasetSettings, info: DataInfo
) -> FileImages:
    return FileImages(
        paths=paths,
        labels=torch.tensor(labels, dtype=torch.int64),
        channels=info.channels,
        size=info.image_size,
        resize=settings.resize or info.image_size,
        exact=settings.image_size is None,
    )


def _size_of_first(folder: Path, channels: int) -> int:
    """The edge of the first image, which must be square; the others are checked when read."""
    path = next(image_files(folder), None)
    if path is None:
        raise ValueError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    picture: Image.Image = read_picture(path, channels)
    if picture.width != picture.height:
        raise ValueError(
            f"dataset.image_size: {path} is {picture.width}x{picture.height}, not square; "
            "give the size to bring all images to"
        )
    return picture.width
