"""Which training images a search uses for what: drawn by ``dataset.split_seed`` alone."""

import torch
from torch import Tensor

from .seeds import derive_seed, permutation


def limited(n: int, limit: int | None, split_seed: int, part: str) -> Tensor:
    """Indices of the images in use: all of ``n``, or ``limit`` of them; int64, ascending."""
    if limit is None or limit >= n:
        return torch.arange(n)
    return permutation(n, derive_seed("limit", part, split_seed))[:limit].sort().values


def check_fractions(valid_fraction: float, train_fraction: float | None) -> None:
    """ValueError, naming the key, for shares that leave one side without images."""
    if not _is_share(valid_fraction):
        raise ValueError(
            f"search.valid_fraction: must be more than 0 and less than 1, not {valid_fraction!r}"
        )
    if train_fraction is None:
        return
    if not _is_share(train_fraction):
        raise ValueError(
            "search.train_fraction: must be null or more than 0 and less than 1, "
            f"not {train_fraction!r}"
        )
    if train_fraction + valid_fraction > 1 + 1e-9:
        raise ValueError(
            f"search.train_fraction: {train_fraction} and search.valid_fraction {valid_fraction} "
            "together must be at most 1"
        )


def search_partition(
    n: int, split_seed: int, valid_fraction: float, train_fraction: float | None
) -> tuple[Tensor, Tensor]:
    """Disjoint indices (search_train, search_valid) into ``n`` images, int64, ascending.

    search_valid takes its share, search_train its own or, if that is None, all the rest.
    """
    check_fractions(valid_fraction, train_fraction)
    valid = round(n * valid_fraction)
    train = n - valid if train_fraction is None else min(round(n * train_fraction), n - valid)
    for key, share, count in (
        ("valid_fraction", valid_fraction, valid),
        ("train_fraction", train_fraction, train),
    ):
        if count < 1:
            at_fault = key if share is not None else "valid_fraction"
            raise ValueError(
                f"search.{at_fault}: leaves search_{key.split('_')[0]} without images "
                f"({n} training images are in use)"
            )
    order = permutation(n, derive_seed("search split", split_seed))
    return order[:train].sort().values, order[n - valid :].sort().values


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
