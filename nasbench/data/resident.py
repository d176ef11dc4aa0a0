"""A split that lives on the device as bytes; a batch costs a few kernels there and no waiting."""

import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from search_spaces.upload import upload

from .augmentation import Augmentation, cutout_centres, erase, random_crop, random_flip
from .normalisation import Normaliser
from .policy import policy_transform
from .seeds import derive_seed, seeded_default
from .split import Batch, DataInfo, Position, Split


class ResidentSplit(Split):
    """pixels uint8 [N, C, H, W] and labels int64 [N], moved to the normaliser's device once."""

    def __init__(
        self, name: str, info: DataInfo, pixels: Tensor, labels: Tensor, normalise: Normaliser
    ) -> None:
        super().__init__(name, info, len(pixels))
        self.device = normalise.device
        self._normalise = normalise
        self._pixels = pixels.to(self.device)
        self._labels = labels.to(self.device)
        # An AutoAugment policy runs image by image through many small transforms. On a GPU each of
        # them would wait for the device; on the CPU they run ahead of it. The bytes are kept there
        # for that.
        self._cpu_pixels = pixels

    def _plain(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        for chunk in chunks:
            indices = upload(chunk, self.device)
            yield self._normalise(self._pixels[indices]), self._labels[indices]

    def _stream(
        self, positions: Iterator[Position], seed: int, augmentation: Augmentation | None
    ) -> Iterator[Batch]:
        policy = None
        if augmentation is not None and augmentation.policy is not None:
            policy = policy_transform(augmentation.policy, self._normalise.mean)
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for at in positions:
            if at.epoch != epoch:  # one transfer per epoch, not one per batch
                epoch, order = at.epoch, upload(at.order, self.device)
            indices = order[at.first : at.last]
            if augmentation is None:
                x = self._normalise(self._pixels[indices])
            else:
                draws = derive_seed(seed, at.epoch, at.step)
                if policy is None:
                    x = _crop_and_flip(self._pixels[indices], augmentation, draws)
                else:
                    x = self._cpu_pixels[at.order[at.first : at.last]]
                    x = _crop_and_flip(x, augmentation, draws)
                    with seeded_default(derive_seed(draws, "policy")):
                        x = torch.stack([policy(image) for image in x])
                    x = upload(x, self.device)
                x = self._normalise(x)
                if augmentation.cutout:
                    generator = _generator(self.device, draws, "cutout")
                    centres = cutout_centres(len(x), x.shape[2], x.shape[3], generator)
                    x = erase(x, centres, augmentation.cutout)
            yield x, self._labels[indices]


def _crop_and_flip(x: Tensor, augmentation: Augmentation, draws: int) -> Tensor:
    generator = _generator(x.device, draws, "crop and flip")
    if augmentation.crop_padding:
        x = random_crop(x, augmentation.crop_padding, generator)
    return random_flip(x, generator) if augmentation.flip else x


def _generator(device: torch.device, *parts: int | str) -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def require_room(images: int, info: DataInfo, device: torch.device) -> None:
    """ValueError if ``images`` pictures as bytes take over half of the device's memory."""
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0]
    else:
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = images * info.channels * info.image_size**2
    if needed > room // 2:
        raise ValueError(
            f"dataset.resident: {images} images of {info.image_size} pixels take "
            f"{needed / 2**30:.1f} GiB and {device.type} has {room / 2**30:.1f} GiB; "
            "use dataset.resident=false or a smaller dataset.image_size"
        )
