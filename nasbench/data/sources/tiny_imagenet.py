"""Tiny-ImageNet-200 (Stanford cs231n) in its original layout.

``wnids.txt``, ``train/<wnid>/images/*.JPEG`` and ``val/images`` with ``val/val_annotations.txt``.
The labels of the original ``test`` folder were never published, so the annotated ``val`` part is
the test part here. Of the classes in ``wnids.txt`` those count whose training folder is there, so
excerpts work.
"""

from pathlib import Path

from ..images import FileImages
from ..settings import DatasetSettings
from ..split import DataInfo
from .base import make_info, missing, require_classes
from .folders import class_folders, locate, make_images, scan


class TinyImageNet:
    def info(self, settings: DatasetSettings, root: Path) -> DataInfo:
        folder, classes = self._classes(settings, root)
        require_classes(settings, classes, folder / "train")
        return make_info(settings, classes=len(classes), image_size=settings.image_size or 64)

    def require_test(self, settings: DatasetSettings, root: Path) -> None:
        folder = locate(settings, root, "wnids.txt")
        if not (folder / "val" / "val_annotations.txt").is_file():
            raise missing(settings, "val/val_annotations.txt and val/images", folder)

    def training_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> FileImages:
        folder, classes = self._classes(settings, root)
        return scan(folder / "train", classes, settings, info)

    def test_images(self, settings: DatasetSettings, root: Path, info: DataInfo) -> FileImages:
        self.require_test(settings, root)
        folder, classes = self._classes(settings, root)
        annotations = folder / "val" / "val_annotations.txt"
        label_of = {name: label for label, name in enumerate(classes)}
        paths, labels = [], []
        for number, line in enumerate(
            annotations.read_text(encoding="utf-8").splitlines(), start=1
        ):
            file, tab, rest = line.partition("\t")
            if not tab:
                raise ValueError(f"{annotations}: line {number} must be <file> TAB <class> TAB ...")
            wnid = rest.split("\t")[0].strip()
            if wnid in label_of:
                paths.append(folder / "val" / "images" / file)
                labels.append(label_of[wnid])
        if not paths:
            raise ValueError(
                f"{annotations}: names no image of the {len(classes)} classes in {folder / 'train'}"
            )
        return make_images(paths, labels, settings, info)

    def _classes(self, settings: DatasetSettings, root: Path) -> tuple[Path, list[str]]:
        folder = locate(settings, root, "wnids.txt")
        if not (folder / "wnids.txt").is_file() or not (folder / "train").is_dir():
            expected = "wnids.txt, train/<wnid>/images/*.JPEG and val/val_annotations.txt"
            raise missing(settings, expected, folder)
        listed = set((folder / "wnids.txt").read_text(encoding="utf-8").split())
        return folder, [name for name in class_folders(folder / "train") if name in listed]
