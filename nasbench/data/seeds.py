"""Where every random number of the data room comes from.

Nothing here keeps a state: a draw is a function of the parts it is named by (run seed, split,
epoch, step), so a run that is continued at any batch sees what an uninterrupted one would have
seen.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed for the thing that ``parts`` name; any other parts give an unrelated one.

    BLAKE2b of the parts' JSON text: the same on every platform and version, and injective before
    hashing ("1" and 1, or ("a", "b") and ("ab",), do not collide).
    """
    text = json.dumps(parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def permutation(n: int, seed: int) -> Tensor:
    """A permutation of ``range(n)``, int64 [n], on the CPU.

    NumPy guarantees the raw stream of a bit generator for ever but not what ``permutation`` makes
    of it, and a split stored as a seed must not move when a library is updated: so sort the raw
    stream.
    """
    return torch.from_numpy(np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable"))


@contextmanager
def seeded_default(seed: int) -> Iterator[None]:
    """Inside, torch's default CPU generator starts at ``seed``; outside, it is as it was.

    torchvision's transforms draw from the default generator only. ``torch.manual_seed`` would also
    reseed every GPU, which ``fork_rng`` over the CPU alone does not undo.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
