"""A split that lives on the device as bytes; a batch costs a few kernels there and no waiting."""

import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .augmentation import Augmentation, cutout_centres, erase, random_crop, random_flip
from .normalisation import Normaliser
from .policy import policy_transform
from .seeds import derive_seed, seeded_default
from .split import Batch, DataInfo, Position, Split


class ResidentSplit(Split):
    """pixels uint8 [N, C, H, W] and labels int64 [N], moved to ``device`` once."""

    def __init__(
        self,
        name: str,
        info: DataInfo,
        pixels: Tensor,
        labels: Tensor,
        *,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        super().__init__(name, info, len(pixels))
        self.device = device
        self._pixels = pixels.to(device)
        self._labels = labels.to(device)
        # An AutoAugment policy runs image by image through many small transforms. On a GPU each of
        # them would wait for the device; on the CPU they run ahead of it. The bytes are kept there
        # for that.
        self._cpu_pixels = pixels
        self._normalise = Normaliser(info.mean, info.std, device, channels_last)

    def _plain(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        for chunk in chunks:
            indices = _upload(chunk, self.device)
            yield self._normalise(self._pixels[indices]), self._labels[indices]

    def _stream(
        self, positions: Iterator[Position], seed: int, augmentation: Augmentation | None
    ) -> Iterator[Batch]:
        per_image = augmentation is not None and augmentation.policy is not None
        pixels = self._cpu_pixels if per_image else self._pixels
        draw = torch.Generator(pixels.device)
        draw_cutout = torch.Generator(self.device)
        policy = policy_transform(augmentation.policy, self.info.mean) if per_image else None
        epoch, order = -1, None
        for at in positions:
            if at.epoch != epoch:  # one transfer per epoch, not one per batch
                epoch, order = at.epoch, _upload(at.order, self.device)
            indices = order[at.first : at.last]
            labels = self._labels[indices]
            if augmentation is None:
                yield self._normalise(pixels[indices]), labels
                continue
            draw.manual_seed(derive_seed(seed, "augment", at.epoch, at.step))
            x = pixels[at.order[at.first : at.last] if per_image else indices]
            if augmentation.crop_padding:
                x = random_crop(x, augmentation.crop_padding, draw)
            if augmentation.flip:
                x = random_flip(x, draw)
            if policy is not None:
                with seeded_default(derive_seed(seed, "policy", at.epoch, at.step)):
                    x = torch.stack([policy(image) for image in x])
                x = _upload(x, self.device)
            x = self._normalise(x)
            if augmentation.cutout:
                draw_cutout.manual_seed(derive_seed(seed, "cutout", at.epoch, at.step))
                x = erase(x, cutout_centres(len(x), x.shape[2:], draw_cutout), augmentation.cutout)
            yield x, labels


def _upload(x: Tensor, device: torch.device) -> Tensor:
    """To ``device`` without waiting for it, which takes page-locked memory."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


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
