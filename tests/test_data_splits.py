"""Order, resume, partition: a draw depends on the seeds it is named by and on nothing else."""

from itertools import islice, product
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from nasbench.data import Augmentation, DatasetSettings, evaluation_data, search_data
from nasbench.data.partition import limited, search_partition
from nasbench.data.seeds import derive_seed, permutation, seeded_default

CONF = Path(__file__).parents[1] / "conf" / "dataset"
CPU = torch.device("cpu")
FULL = Augmentation(1, True, 3, None)


def digits(**changes: object) -> DatasetSettings:
    values = yaml.safe_load((CONF / "digits.yaml").read_text())
    values.pop("defaults")
    return DatasetSettings(**values | changes)


def halves(
    settings: DatasetSettings, valid: float = 0.5, train: float | None = None, **more: object
):
    return search_data(
        settings, valid_fraction=valid, train_fraction=train, device=CPU, workers=0, **more
    )


def equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(p[0], q[0]) and torch.equal(p[1], q[1]) for p, q in zip(a, b, strict=True)
    )


def rows(batches: list[tuple[Tensor, Tensor]]) -> list[bytes]:
    return [image.numpy().tobytes() for x, _ in batches for image in x]


def test_seeds_are_pinned() -> None:
    """These numbers are in stored runs: a change here is a change of every split."""
    assert derive_seed("split", 0) == 2288560908405821365
    assert permutation(8, 1).tolist() == [2, 4, 7, 5, 0, 6, 3, 1]
    assert derive_seed(1) != derive_seed("1") and derive_seed("a", "b") != derive_seed("ab")
    assert derive_seed(1, 2) != derive_seed(12) and derive_seed(-1) != derive_seed(1)
    assert 0 <= min(derive_seed(i) for i in range(100)) and derive_seed(2**70) < 2**63


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("augmentation", [None, FULL, Augmentation(1, True, 3, "autoaugment_svhn")])
def test_any_start_continues_exactly(resident: bool, augmentation: Augmentation | None) -> None:
    split = halves(digits(resident=resident, limit_train=100)).search_train
    assert split.steps_per_epoch(16) == 4 and len(split) == 50
    whole = list(islice(split.batches(16, seed=7, augmentation=augmentation), 10))
    assert [len(x) for x, _ in whole] == [16, 16, 16, 2, 16, 16, 16, 2, 16, 16]
    for start in (1, 3, 4, 6):
        rest = split.batches(16, seed=7, augmentation=augmentation, start=start)
        assert equal(list(islice(rest, 10 - start)), whole[start:])


@pytest.mark.parametrize("resident", [True, False])
def test_same_seed_same_batches_other_seed_others(resident: bool) -> None:
    def first(seed: int) -> list[tuple[Tensor, Tensor]]:
        split = halves(digits(resident=resident, limit_train=60)).search_train
        return list(islice(split.batches(8, seed=seed, augmentation=FULL), 3))

    assert equal(first(1), first(1))
    assert not equal(first(1), first(2))


def test_an_epoch_holds_every_image_once_in_new_order() -> None:
    data = halves(digits(limit_train=120))
    split = data.search_train
    stream = split.batches(25, seed=0, augmentation=None)
    one, two = list(islice(stream, 3)), list(islice(stream, 3))
    assert sorted(rows(one)) == sorted(rows(two)) == sorted(rows(list(split.once(1000))))
    assert rows(one) != rows(two)
    labels = [torch.cat([y for _, y in part]).tolist() for part in (one, two)]
    assert labels[0] != labels[1]
    unshuffled = list(islice(split.batches(25, seed=0, augmentation=None, shuffle=False), 3))
    assert equal(unshuffled, list(split.once(25)))


def test_augmentation_differs_between_epochs_and_steps() -> None:
    split = halves(digits(limit_train=40)).search_train
    pixels = next(split.once(20))[0]
    stream = split.batches(10, seed=0, augmentation=FULL, shuffle=False)
    (a, _), (b, _), (c, _) = islice(stream, 3)
    changed = [(x != y).flatten(1).any(1) for x, y in ((a, pixels[:10]), (b, pixels[10:]))]
    assert changed[0].any() and changed[1].any() and not torch.equal(a, c)


def test_splits_under_one_seed_have_unrelated_orders() -> None:
    data = halves(digits(limit_train=100))
    orders = []
    for split in (data.search_train, data.search_valid):
        images = rows(list(split.once(50)))
        orders.append(
            [images.index(r) for r in rows([next(split.batches(50, seed=0, augmentation=None))])]
        )
    assert orders[0] != orders[1]


def test_nothing_touches_the_runs_own_generators() -> None:
    data = {r: halves(digits(resident=r, limit_train=40)) for r in (True, False)}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for resident, policy in product((True, False), (None, "autoaugment_svhn")):
        split = data[resident].search_train
        list(islice(split.batches(8, seed=0, augmentation=Augmentation(1, True, 2, policy)), 2))
        list(split.once(8)), split.sample(4, seed=0, batch_size=2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded_default(1):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_sample_is_distinct_and_seeded() -> None:
    split = halves(digits(limit_train=100)).search_train
    batches = split.sample(30, seed=4, batch_size=16)
    assert [len(y) for _, y in batches] == [16, 14]
    assert len(set(rows(batches))) == 30 and set(rows(batches)) <= set(rows(list(split.once(50))))
    assert equal(batches, split.sample(30, seed=4, batch_size=16))
    assert not equal(batches, split.sample(30, seed=5, batch_size=16))
    with pytest.raises(ValueError, match="asked for 51 distinct images, has 50"):
        split.sample(51, seed=0, batch_size=16)


def test_partition_is_disjoint_and_covers() -> None:
    train, valid = search_partition(1001, 0, 0.5, None)
    assert len(valid) == 500 and sorted([*train.tolist(), *valid.tolist()]) == list(range(1001))
    train, valid = search_partition(1000, 0, 0.1, 0.2)
    assert (len(train), len(valid)) == (200, 100) and not set(train.tolist()) & set(valid.tolist())
    train, valid = search_partition(15, 0, 0.5, 0.5)  # both halves round up: one gives way
    assert len(train) + len(valid) == 15


def test_partition_depends_on_the_split_seed_alone() -> None:
    torch.manual_seed(1)
    first = halves(digits())
    torch.manual_seed(2)
    again, other = halves(digits()), halves(digits(split_seed=1))
    assert equal(list(first.search_valid.once(99)), list(again.search_valid.once(99)))
    assert not equal(list(first.search_valid.once(99)), list(other.search_valid.once(99)))
    assert search_partition(12, 0, 0.25, None)[1].tolist() == [0, 2, 5]


def test_limit_takes_the_same_images_everywhere() -> None:
    assert torch.equal(limited(5, 9, 0, "train"), torch.arange(5))
    chosen = limited(1000, 10, 0, "train")
    assert len(set(chosen.tolist())) == 10 and chosen.max() > 20
    assert torch.equal(limited(1000, 10, 0, "train"), chosen)
    assert not torch.equal(limited(1000, 10, 1, "train"), chosen)
    settings = digits(limit_train=30, limit_test=7)
    evaluation, search = evaluation_data(settings, device=CPU, workers=0), halves(settings)
    assert (len(evaluation.train), len(evaluation.test)) == (30, 7)
    both = [*search.search_train.once(30), *search.search_valid.once(30)]
    assert sorted(rows(both)) == sorted(rows(list(evaluation.train.once(30))))


@pytest.mark.parametrize(
    ("valid", "train", "at_fault"),
    [
        (0, None, "valid_fraction"),
        (0.0, None, "valid_fraction"),
        (1, None, "valid_fraction"),
        (1.0, 0.5, "valid_fraction"),
        (-0.5, None, "valid_fraction"),
        (float("nan"), None, "valid_fraction"),
        (True, None, "valid_fraction"),
        ("half", None, "valid_fraction"),
        (0.0001, None, "valid_fraction"),
        (0.9999, None, "valid_fraction"),
        (0.5, 0, "train_fraction"),
        (0.5, 1.0, "train_fraction"),
        (0.5, 0.6, "train_fraction"),
        (0.5, 0.0001, "train_fraction"),
    ],
)
def test_bad_fractions_name_the_key(valid: object, train: object, at_fault: str) -> None:
    with pytest.raises(ValueError, match=f"^search.{at_fault}: ") as caught:
        halves(digits(), valid, train)
    assert "\n" not in str(caught.value)


def test_batch_sizes_are_checked_at_the_call() -> None:
    data, evaluation = (
        halves(digits(limit_train=40)),
        evaluation_data(digits(limit_train=40), device=CPU, workers=0),
    )
    for split, key in ((data.search_valid, "search"), (evaluation.train, "evaluation")):
        most = len(split)
        with pytest.raises(ValueError, match=f"^{key}.batch_size: 41 is larger .* at most {most}$"):
            split.batches(41, seed=0, augmentation=None)
        for wrong in (0, -1):
            with pytest.raises(ValueError, match=f"^{key}.batch_size: must be at least 1"):
                split.batches(wrong, seed=0, augmentation=None)
            with pytest.raises(ValueError, match=f"^{key}.batch_size: must be at least 1"):
                split.once(wrong)
    assert [len(y) for _, y in evaluation.train.once(1000)] == [40]


def test_two_workers_give_what_none_gives() -> None:
    settings = digits(resident=False, limit_train=40)
    streams = []
    for workers in (0, 2):
        data = search_data(
            settings, valid_fraction=0.5, train_fraction=None, device=CPU, workers=workers
        )
        batches = data.search_train.batches(
            8, seed=3, augmentation=Augmentation(1, True, 3, "autoaugment_svhn"), start=2
        )
        streams.append(list(islice(batches, 4)) + list(data.search_valid.once(8)))
    assert equal(*streams)
