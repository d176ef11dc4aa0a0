"""Batched augmentation is drawn per image and equals torchvision's in distribution."""

import math
from collections import Counter
from itertools import islice, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from nasbench.data.augmentation import (
    Augmentation,
    cutout_centres,
    erase,
    random_crop,
    random_flip,
)
from nasbench.data.images import ArrayImages
from nasbench.data.normalisation import Normaliser, pixel_statistics
from nasbench.data.policy import POLICIES, policy_transform
from nasbench.data.resident import ResidentSplit
from nasbench.data.seeds import seeded_default
from nasbench.data.split import DataInfo, Split
from nasbench.data.worker import Recipe, WorkerSplit

EDGE = 8
# Every pixel has its own value, so that a crop and a flip can be read off the result.
CODED = torch.arange(1, EDGE * EDGE + 1, dtype=torch.uint8).view(1, 1, EDGE, EDGE)


def info(size: int = EDGE, channels: int = 1) -> DataInfo:
    # mean 0 and std 1/255 leave pixel values as they are
    return DataInfo("coded", 2, size, channels, (0.0,) * channels, (1 / 255,) * channels)


def split(kind: str, pixels: Tensor) -> Split:
    labels = torch.arange(len(pixels)) % 2
    about = info(pixels.shape[-1], pixels.shape[1])
    if kind == "resident":
        return resident(about, pixels)
    recipe = Recipe(pixels.shape[-1], pixels.shape[-1], False, None)
    images = ArrayImages(pixels, labels)
    return WorkerSplit("train", about, images, recipe, normaliser(about), workers=0)


def normaliser(about: DataInfo, device: str = "cpu", channels_last: bool = False) -> Normaliser:
    assert about.mean and about.std
    return Normaliser(about.mean, about.std, torch.device(device), channels_last)


def resident(about: DataInfo, pixels: Tensor, **place: Any) -> ResidentSplit:
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return ResidentSplit("train", about, pixels, labels, normaliser(about, **place))


def key(image: Tensor) -> bytes:
    return image.round().to(torch.uint8).numpy().tobytes()


def chi_square_fits(counts: list[int], cells: int) -> bool:
    """Whether counts over equally likely cells are within 4 deviations of what chance gives."""
    expected = sum(counts) / cells
    statistic = sum((n - expected) ** 2 / expected for n in counts) + expected * (
        cells - len(counts)
    )
    return abs(statistic - (cells - 1)) < 4 * math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("kind", ["resident", "worker"])
def test_every_crop_and_flip_is_equally_likely(kind: str) -> None:
    padding = 2
    padded = v2.functional.pad(CODED, [padding] * 4)
    possible = set()
    for top, left in product(range(2 * padding + 1), repeat=2):
        crop = v2.functional.crop(padded, top, left, EDGE, EDGE)
        possible |= {key(crop.float()), key(crop.flip(-1).float())}
    assert len(possible) == 50
    stream = split(kind, CODED.expand(500, -1, -1, -1)).batches(
        100, seed=3, augmentation=Augmentation(padding, True, 0, None)
    )
    seen = Counter(key(image) for x, _ in islice(stream, 50) for image in x)
    assert set(seen) == possible  # the four corners included
    assert chi_square_fits(list(seen.values()), 50)


def test_images_of_one_batch_are_drawn_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = CODED.expand(64, -1, -1, -1)
    flipped = (random_flip(batch, generator) != batch).flatten(1).any(1)
    assert 16 < flipped.sum() < 48
    assert len({key(image) for image in random_crop(batch, 2, generator).float()}) > 15


def cut_one(image: Tensor, row: int, column: int, edge: int) -> Tensor:
    """The original cutout, image by image: first row and column clipped, then last."""
    _, height, width = image.shape
    first_row, first_column = row - edge // 2, column - edge // 2
    rows = slice(max(0, first_row), min(height, first_row + edge))
    columns = slice(max(0, first_column), min(width, first_column + edge))
    image = image.clone()
    image[:, rows, columns] = 0
    return image


@pytest.mark.parametrize("edge", [1, 3, 4, 16])
def test_cutout_equals_the_original_at_every_centre(edge: int) -> None:
    centres = torch.tensor(list(product(range(EDGE), range(EDGE + 2))))
    images = torch.randn(len(centres), 3, EDGE, EDGE + 2) + 10
    expected = torch.stack(
        [cut_one(x, r, c, edge) for x, (r, c) in zip(images, centres.tolist(), strict=True)]
    )
    assert torch.equal(erase(images.clone(), centres, edge), expected)


def test_cutout_of_sixteen_on_cifar_keeps_the_known_share() -> None:
    """Rows and columns alike lose 16 of 32, fewer near the border: the mean is known exactly."""
    lost = [min(32, c + 8) - max(0, c - 8) for c in range(32)]
    share = (sum(lost) / 32 / 32) ** 2
    centres = torch.tensor(list(product(range(32), repeat=2)))
    erased = erase(torch.ones(len(centres), 1, 32, 32), centres, 16) == 0
    assert erased.double().mean().item() == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("kind", ["resident", "worker"])
def test_cutout_centres_are_uniform_over_all_pixels(kind: str) -> None:
    stream = split(kind, CODED.expand(400, -1, -1, -1)).batches(
        200, seed=5, augmentation=Augmentation(0, False, 1, None)
    )
    where = Counter(
        int((image == 0).flatten().nonzero()) for x, _ in islice(stream, 16) for image in x
    )
    assert len(where) == EDGE * EDGE
    assert chi_square_fits(list(where.values()), EDGE * EDGE)


def test_cutout_rows_and_columns_keep_their_own_range() -> None:
    centres = cutout_centres(2000, 3, 7, torch.Generator().manual_seed(0))
    assert centres.amax(0).tolist() == [2, 6] and centres.amin(0).tolist() == [0, 0]


def test_cutout_fills_after_normalisation() -> None:
    about = DataInfo("x", 2, EDGE, 1, (0.5,), (0.25,))
    white = torch.full((8, 1, EDGE, EDGE), 255, dtype=torch.uint8)
    images = resident(about, white)
    x, _ = next(images.batches(8, seed=0, augmentation=Augmentation(0, False, 4, None)))
    assert sorted({round(v, 5) for v in x.unique().tolist()}) == [0.0, 2.0]


def test_normalisation_equals_torchvision() -> None:
    pixels = torch.randint(256, (6, 3, EDGE, EDGE), dtype=torch.uint8)
    mean, std = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
    about = DataInfo("x", 2, EDGE, 3, mean, std)
    expected = v2.Normalize(mean, std)(v2.functional.to_dtype(pixels, torch.float32, scale=True))
    for channels_last in (False, True):
        images = resident(about, pixels, channels_last=channels_last)
        (x, _) = next(images.once(6))
        assert torch.allclose(x, expected, atol=1e-6)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert x.is_contiguous(memory_format=layout)


def test_statistics_are_those_of_the_pixels() -> None:
    pixels = torch.randint(256, (2500, 3, 4, 4), dtype=torch.uint8)
    pixels[:, 2] = 51  # constant: deviation counts as 1
    mean, std = pixel_statistics(ArrayImages(pixels, torch.zeros(2500)))
    x = pixels.double() / 255
    assert mean == pytest.approx(x.mean(dim=(0, 2, 3)).tolist())
    assert std[:2] == pytest.approx(x.std(dim=(0, 2, 3), correction=0)[:2].tolist())
    assert std[2] == 1.0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_policy_is_drawn_per_image(policy: str, channels: int) -> None:
    one = torch.randint(1, 256, (1, channels, 16, 16), dtype=torch.uint8)
    for kind in ("resident", "worker"):
        stream = split(kind, one.expand(40, -1, -1, -1)).batches(
            40, seed=1, augmentation=Augmentation(0, False, 0, policy)
        )
        (x, _), (later, _) = islice(stream, 2)
        assert x.shape == (40, channels, 16, 16)
        assert len({key(image) for image in x}) > 10
        assert not torch.equal(x, later)


def test_policy_fills_with_the_mean_colour() -> None:
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    change = policy_transform("autoaugment_cifar10", (0.2, 0.4, 0.6))
    with seeded_default(0):
        colours = Counter(
            tuple(colour) for _ in range(60) for colour in change(white).flatten(1).T.tolist()
        )
    assert (51, 102, 153) in colours


@pytest.mark.parametrize(
    ("values", "at_fault"),
    [((-1, True, 0, None), "crop_padding"), ((0, True, -2, None), "cutout")]
    + [((0, True, 0, "autoaugment"), "policy")],
)
def test_bad_augmentation_names_the_key(values: tuple, at_fault: str) -> None:
    with pytest.raises(ValueError, match=f"^{at_fault}: "):
        Augmentation(*values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", [None, "autoaugment_cifar10"])
def test_gpu_batches_wait_for_nothing(policy: str | None) -> None:
    pixels = torch.randint(256, (96, 3, 32, 32), dtype=torch.uint8)
    images = resident(info(32, 3), pixels, device="cuda", channels_last=True)
    stream = images.batches(40, seed=0, augmentation=Augmentation(4, True, 16, policy))
    next(stream)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(islice(stream, 6))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(x.device.type == "cuda" for x, _ in batches)
