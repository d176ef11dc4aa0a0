"""A named part of a data set and the one way to get batches out of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from .augmentation import Augmentation
from .seeds import derive_seed, permutation

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DataInfo:
    """What a network has to know of a data set: classes, square edge in pixels, colour channels.

    mean, std: the normalisation, per channel; None where it is yet to be computed from the images.
    """

    name: str
    classes: int
    image_size: int
    channels: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


class Split(ABC):
    """Images and labels under one of the names search_train, search_valid, train, test.

    Batches are (x, y): normalised float32 [n, C, H, W] and int64 [n], both on the device.
    """

    def __init__(self, name: str, info: DataInfo, size: int) -> None:
        self.name = name
        self.info = info
        self._size = size

    def __len__(self) -> int:
        return self._size

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches in an epoch with the smaller last one; ValueError for a size that cannot work."""
        key = f"{'search' if self.name.startswith('search') else 'evaluation'}.batch_size"
        if batch_size < 1:
            raise ValueError(f"{key}: must be at least 1, not {batch_size}")
        if batch_size > len(self):
            raise ValueError(
                f"{key}: {batch_size} is larger than the {len(self)} images of {self.name}; "
                f"use at most {len(self)}"
            )
        return -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        augmentation: Augmentation | None,
        start: int = 0,
        shuffle: bool = True,
    ) -> Iterator[Batch]:
        """Batches without end, beginning at number ``start``, counted over all epochs.

        Every epoch goes through all images once. Order and augmentation depend on ``seed``, the
        epoch and the place in it and on nothing before, so any ``start`` continues an earlier run
        exactly.

        Raises ValueError, at the call, if the batch is larger than the split.
        """
        assert start >= 0, start
        epoch, step = divmod(start, self.steps_per_epoch(batch_size))
        # Two splits under one seed must not go through their images in the same order.
        seed = derive_seed(seed, self.name)
        return self._stream(
            _positions(len(self), batch_size, seed, epoch, step, shuffle), seed, augmentation
        )

    def once(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, in order, without augmentation; any batch size of at least 1."""
        self.steps_per_epoch(min(batch_size, len(self)))
        return self._plain(torch.arange(len(self)).split(batch_size))

    def sample(self, n: int, *, seed: int, batch_size: int) -> list[Batch]:
        """``n`` distinct images, drawn by ``seed``, without augmentation, in batches.

        Raises ValueError if the split has fewer.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"{self.name}: asked for {n} distinct images, has {len(self)}")
        order = permutation(len(self), derive_seed(seed, self.name, "sample"))
        return list(self._plain(order[:n].split(batch_size)))

    @abstractmethod
    def _stream(
        self, positions: Iterator["Position"], seed: int, augmentation: Augmentation | None
    ) -> Iterator[Batch]:
        """One batch for each position."""

    @abstractmethod
    def _plain(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """One batch without augmentation for each tensor of image numbers."""


@dataclass(frozen=True)
class Position:
    """A batch's place in the stream and the numbers of its images, int64 [n] on the CPU.

    ``order`` is the whole epoch's, the batch's part of it is ``order[first:last]``.
    """

    epoch: int
    step: int
    order: Tensor
    first: int
    last: int


def _positions(
    n: int, batch_size: int, seed: int, epoch: int, step: int, shuffle: bool
) -> Iterator[Position]:
    """Positions without end over ``n`` images, from batch ``step`` of ``epoch`` on."""
    for now in count(epoch):
        order = permutation(n, derive_seed(seed, "order", now)) if shuffle else torch.arange(n)
        for first in range(step * batch_size, n, batch_size):
            yield Position(now, first // batch_size, order, first, min(first + batch_size, n))
        step = 0
