"""A split decoded image by image in worker processes: for sets that do not fit the device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augmentation import Augmentation, erase
from .images import Images, fit
from .normalisation import Channels, Normaliser
from .policy import policy_transform
from .seeds import derive_seed, seeded_default
from .split import Batch, DataInfo, Position, Split

Picture = Image.Image


@dataclass(frozen=True)
class Recipe:
    """How a whole picture becomes ``size`` x ``size`` pixels; the settings of the same names."""

    size: int
    resize: int
    random_resized_crop: bool
    color_jitter: tuple[float, ...] | None


class WorkerSplit(Split):
    """Decoded by ``workers`` processes, in this one if 0; the images do not depend on the number.

    Augmentation is a function of (seed, epoch, image); pixels travel as bytes and are normalised on
    the device.
    """

    def __init__(
        self,
        name: str,
        info: DataInfo,
        images: Images,
        recipe: Recipe,
        normalise: Normaliser,
        *,
        workers: int,
    ) -> None:
        super().__init__(name, info, len(images.labels))
        self.device = normalise.device
        self._images = images
        self._recipe = recipe
        self._workers = workers
        self._normalise = normalise

    def _plain(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        pictures = _Pictures(self._images, transform(self._recipe, None, self._normalise.mean), 0)
        lists = ([(0, index) for index in chunk.tolist()] for chunk in chunks)
        for x, y, _ in self._load(pictures, list(lists)):
            yield self._normalise(x), y

    def _stream(
        self, positions: Iterator[Position], seed: int, augmentation: Augmentation | None
    ) -> Iterator[Batch]:
        pictures = _Pictures(
            self._images, transform(self._recipe, augmentation, self._normalise.mean), seed
        )
        lists = ([(at.epoch, i) for i in at.order[at.first : at.last].tolist()] for at in positions)
        for x, y, centres in self._load(pictures, lists):
            x = self._normalise(x)
            if augmentation is not None and augmentation.cutout:
                x = erase(x, centres, augmentation.cutout)
            yield x, y

    def _load(self, pictures: "_Pictures", lists: Iterable[list]) -> Iterator[tuple[Tensor, ...]]:
        """One live iterator for the whole stream: starting workers costs far more than a batch."""
        loader = DataLoader(
            pictures,
            batch_sampler=lists,
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader would draw from the run's own generator
        )
        for batch in loader:
            if isinstance(batch, str):
                raise ValueError(batch)
            yield tuple(part.to(self.device, non_blocking=True) for part in batch)


class _Pictures(Dataset):
    """(epoch, index) to (bytes [C, H, W], label, cutout centre [2]), or to the text of an error.

    An exception would cross the process boundary as a page of traceback; a text does not.
    """

    def __init__(self, images: Images, change: Callable[[Picture], Tensor], seed: int) -> None:
        self.images = images
        self.change = change
        self.seed = seed

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor] | str:
        epoch, index = item
        try:
            picture = self.images.picture(index)
        except ValueError as error:
            return str(error)
        with seeded_default(derive_seed(self.seed, "image", epoch, index)):
            pixels = self.change(picture)
            height, width = pixels.shape[1:]
            centre = torch.stack([torch.randint(height, ()), torch.randint(width, ())])
        return pixels, self.images.labels[index], centre


def _collate(items: list[tuple[Tensor, ...] | str]) -> tuple[Tensor, ...] | str:
    error = next((item for item in items if isinstance(item, str)), None)
    return error or tuple(torch.stack(parts) for parts in zip(*items, strict=True))


def transform(
    recipe: Recipe, augmentation: Augmentation | None, mean: Channels
) -> Callable[[Picture], Tensor]:
    """Picture to uint8 [C, H, W] by torchvision's transforms; cutout comes later, on the device."""
    from torchvision.transforms import v2  # a second of import time, so only where it is needed

    centre = _Fit(recipe.size, recipe.resize)
    if augmentation is None:
        return v2.Compose([centre, v2.PILToTensor()])
    steps: list[Callable] = (
        [v2.RandomResizedCrop(recipe.size)] if recipe.random_resized_crop else [centre]
    )
    if augmentation.crop_padding:
        steps.append(v2.RandomCrop(recipe.size, padding=augmentation.crop_padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.color_jitter is not None:
        steps.append(v2.ColorJitter(*recipe.color_jitter))
    if augmentation.policy is not None:
        steps.append(policy_transform(augmentation.policy, mean))
    return v2.Compose([*steps, v2.PILToTensor()])


@dataclass(frozen=True)
class _Fit:
    """``images.fit`` as an object, because a lambda cannot be sent to a worker that is spawned."""

    size: int
    resize: int

    def __call__(self, picture: Picture) -> Picture:
        return fit(picture, self.size, self.resize)
