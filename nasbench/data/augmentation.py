"""Training augmentation of a whole batch at once, drawn anew for every image in it.

The recipe of DARTS (its appendix A and released code): zero-pad and crop at random, flip left-right
with probability one half, normalise, then cut out one square. Equal in distribution to
torchvision's per-image ``RandomCrop`` and ``RandomHorizontalFlip`` and to the original cutout;
torchvision's own batched transforms draw once per batch, which flips all images or none.

Everything here runs where the images are and waits for nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .policy import POLICIES


@dataclass(frozen=True)
class Augmentation:
    """crop_padding: pixels of zero padding on each side before the random crop; 0 is no crop.
    flip: flip left-right with probability 1/2.
    cutout: edge in pixels of one erased square; 0 is none.
    policy: null or a learned AutoAugment policy, applied per image between flip and normalisation.
    """

    crop_padding: int
    flip: bool
    cutout: int
    policy: str | None

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(
                f"crop_padding: must be 0 (off) or more pixels, not {self.crop_padding}"
            )
        if self.cutout < 0:
            raise ValueError(f"cutout: must be 0 (off) or more pixels, not {self.cutout}")
        if self.policy is not None and self.policy not in POLICIES:
            raise ValueError(
                f"policy: must be null or one of {', '.join(POLICIES)}, not {self.policy!r}"
            )


def random_crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Zero-pad [n, C, H, W] and take one of the H x W windows per image, all equally likely."""
    n, _, height, width = images.shape
    offsets = torch.randint(2 * padding + 1, (2, n), generator=generator, device=images.device)
    padded = F.pad(images, (padding, padding, padding, padding))
    # A view of every window; indexing it copies whole windows, several times faster than pixel
    # indices.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=images.device), :, offsets[0], offsets[1]]


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Flip each image of [n, C, H, W] left-right with probability 1/2."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def cutout_centres(n: int, height: int, width: int, generator: Generator) -> Tensor:
    """Centres (row, column) of the erased squares, int64 [n, 2], uniform over all pixels."""
    rows = torch.randint(height, (n,), generator=generator, device=generator.device)
    columns = torch.randint(width, (n,), generator=generator, device=generator.device)
    return torch.stack([rows, columns], dim=1)


def erase(images: Tensor, centres: Tensor, edge: int) -> Tensor:
    """Set to 0, in place, the square of ``edge`` pixels around each centre, clipped at the border.

    images [n, C, H, W], already normalised, so that 0 is the mean colour; centres [n, 2]. For an
    even edge the square reaches from centre - edge/2 up to, not including, centre + edge/2, as in
    DARTS.
    """
    first = centres - edge // 2
    rows = torch.arange(images.shape[2], device=images.device) - first[:, :1]
    columns = torch.arange(images.shape[3], device=images.device) - first[:, 1:]
    in_rows = (rows >= 0) & (rows < edge)
    in_columns = (columns >= 0) & (columns < edge)
    return images.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
