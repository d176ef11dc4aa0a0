"""Reading files: layouts, inference, errors about broken ones, and a search without test files."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
import yaml
from PIL import Image

from nasbench.data import DatasetSettings, SearchData, describe, evaluation_data, search_data
from nasbench.data.resident import require_room

CONF = Path(__file__).parents[1] / "conf" / "dataset"
CPU = torch.device("cpu")


def settings(file: str, root: Path | None, **changes: object) -> DatasetSettings:
    values = yaml.safe_load((CONF / f"{file}.yaml").read_text())
    values.pop("defaults", None)
    return DatasetSettings(**values | {"root": root and str(root)} | changes)


def search(chosen: DatasetSettings, workers: int = 0) -> SearchData:
    return search_data(chosen, valid_fraction=0.5, train_fraction=None, device=CPU, workers=workers)


def evaluate(chosen: DatasetSettings) -> Any:
    return evaluation_data(chosen, device=CPU, workers=0)


def error_of(kind: type[Exception], action: Any, *arguments: Any) -> str:
    with pytest.raises(kind) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_image(path: Path, size: int | tuple[int, int], mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = (size, size) if isinstance(size, int) else size
    shape = (height, width) if mode == "L" else (height, width, 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A user's own folder: 3 classes, 12 pixels, one grey and one hidden file among them."""
    for label, name in enumerate(("ant", "bee", "cat")):
        for i in range(6):
            mode = "L" if i == 3 else "RGB"
            write_image(tmp_path / "train" / name / f"{i}.png", 12, mode, 10 * label + i)
        write_image(tmp_path / "test" / name / "deeper" / "x.PNG", 12, seed=99 + label)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "ant" / "._0.png").write_text("left by a file manager")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def test_image_folder_infers_everything(pictures: Path) -> None:
    chosen = settings("image_folder", pictures)
    about = describe(chosen, test=True)
    assert (about.classes, about.image_size, about.channels, about.mean) == (3, 12, 3, None)
    data = evaluate(chosen)
    (x, y), (tx, ty) = next(data.train.once(18)), next(data.test.once(9))
    assert x.shape == (18, 3, 12, 12) and y.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert tx.shape == (3, 3, 12, 12) and ty.tolist() == [0, 1, 2]
    assert torch.allclose(x.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    assert torch.equal(
        x[3, 0] * data.info.std[0] + data.info.mean[0] > 0.5,
        x[3, 1] * data.info.std[1] + data.info.mean[1] > 0.5,
    )  # the grey one
    given = evaluate(settings("image_folder", pictures, mean=[0.5] * 3, std=[0.25] * 3))
    assert given.info.mean == (0.5,) * 3
    raw = np.asarray(Image.open(pictures / "train/ant/0.png")).transpose(2, 0, 1) / 255
    pixels = next(given.train.once(1))[0][0].numpy()
    assert np.allclose(pixels, (raw - 0.5) / 0.25, atol=1e-5)


def test_image_folder_by_workers_gives_the_resident_pixels(pictures: Path) -> None:
    same = {"mean": [0.5] * 3, "std": [0.2] * 3, "image_size": 8}
    held = search(settings("image_folder", pictures, **same))
    decoded = search(settings("image_folder", pictures, resident=False, **same), workers=1)
    for one, other in (
        (held.search_train, decoded.search_train),
        (held.search_valid, decoded.search_valid),
    ):
        (x, y), (dx, dy) = next(one.once(9)), next(other.once(9))
        assert x.shape == (9, 3, 8, 8) and torch.equal(x, dx) and torch.equal(y, dy)


def test_grey_channels_and_inferred_statistics_of_a_worker_pipeline(pictures: Path) -> None:
    data = evaluate(settings("image_folder", pictures, channels=1, resident=False, image_size=12))
    x, _ = next(data.train.once(18))
    assert x.shape == (18, 1, 12, 12)
    assert abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-2


def test_image_size_resizes_and_crops_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((16, 40, 3), dtype=np.uint8)
    wide[:, 12:28] = 255  # the centre square is white
    for part, name in (("train", "a"), ("train", "b"), ("test", "a")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / part / name / "x.png")
    chosen = settings("image_folder", tmp_path, image_size=16, mean=[0.0] * 3, std=[1.0] * 3)
    assert next(evaluate(chosen).train.once(1))[0].min() == 1.0
    text = error_of(ValueError, describe, settings("image_folder", tmp_path))
    assert text.startswith("dataset.image_size: ") and "40x16, not square" in text


def test_two_sizes_without_image_size(pictures: Path) -> None:
    write_image(pictures / "train" / "bee" / "0.png", 20)
    text = error_of(ValueError, search, settings("image_folder", pictures))
    assert text.startswith("dataset.image_size: sizes differ") and "bee/0.png is 20x20" in text
    assert evaluate(settings("image_folder", pictures, image_size=12)).info.image_size == 12


def test_image_folder_layout_errors(pictures: Path) -> None:
    text = error_of(FileNotFoundError, describe, settings("image_folder", pictures / "train"))
    assert "train/<class>/<image>" in text and "class folders such as ant" in text
    text = error_of(ValueError, describe, settings("image_folder", pictures, classes=4))
    assert text.startswith("dataset.classes: ") and "has 3 class folders, not 4" in text
    write_image(pictures / "test" / "dog" / "x.png", 12)
    text = error_of(ValueError, evaluate, settings("image_folder", pictures))
    assert "test/dog" in text and "has no such class" in text
    (pictures / "train" / "empty").mkdir()
    text = error_of(ValueError, search, settings("image_folder", pictures))
    assert "train/empty: holds no images" in text
    shutil.rmtree(pictures / "test")
    assert describe(settings("image_folder", pictures)).classes == 4
    for action in (evaluate, lambda chosen: describe(chosen, test=True)):
        assert "test/<class>" in error_of(
            FileNotFoundError, action, settings("image_folder", pictures)
        )


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_images_are_named(pictures: Path, resident: bool, workers: int) -> None:
    broken = pictures / "train" / "cat" / "2.png"
    whole = broken.read_bytes()
    chosen = settings(
        "image_folder", pictures, resident=resident, image_size=12, mean=[0.5] * 3, std=[0.2] * 3
    )

    def read_all() -> None:
        data = search(chosen, workers)
        list(data.search_train.once(9)), list(data.search_valid.once(9))

    contents = [whole[: len(whole) // 2], b"", b"\x89PNG\r\n\x1a\n rubbish", b"<html>404</html>"]
    for content in contents if workers == 0 else contents[:1]:
        broken.write_bytes(content)
        text = error_of(ValueError, read_all)
        assert text.startswith(f"{broken}: not a readable image") and "Traceback" not in text
    Image.fromarray(np.full((12, 12), 40000, dtype=np.uint16)).save(broken)
    assert "more than 8 bits" in error_of(ValueError, read_all)


def test_imagenet_recipe(tmp_path: Path) -> None:
    for part, name, count in (("train", "n01", 3), ("train", "n02", 3), ("val", "n02", 2)):
        for i in range(count):
            write_image(tmp_path / "imagenet" / part / name / f"{i}.JPEG", (300 + i, 260), seed=i)
    chosen = settings("imagenet", tmp_path, classes=2)
    data = evaluate(chosen)
    augmentation = chosen.augmentation(cutout=0, policy=None)
    x, y = next(data.train.batches(6, seed=0, augmentation=augmentation))
    again, _ = next(data.train.batches(6, seed=0, augmentation=augmentation))
    other, _ = next(data.train.batches(6, seed=0, augmentation=augmentation, start=1))
    assert x.shape == (6, 3, 224, 224) and torch.equal(x, again) and not torch.equal(x, other)
    plain = evaluate(settings("imagenet", tmp_path, classes=2, color_jitter=None))
    unjittered, _ = next(plain.train.batches(6, seed=0, augmentation=augmentation))
    assert not torch.equal(x, unjittered)
    (tx, ty) = next(data.test.once(2))
    assert tx.shape == (2, 3, 224, 224) and ty.tolist() == [1, 1]
    picture = Image.open(tmp_path / "imagenet/val/n02/0.JPEG").convert("RGB")
    scaled = np.asarray(picture.resize((295, 256), Image.Resampling.BILINEAR))
    centre = torch.from_numpy(scaled[16:240, 36:260].copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.info.mean, data.info.std))
    assert torch.allclose(tx[0], (centre - mean) / std, atol=1e-5)
    text = error_of(ValueError, describe, settings("imagenet", tmp_path))
    assert "not 1000" in text and "dataset.classes=null" in text


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    for i in range(4):
        write_image(folder / "train" / "n2" / "images" / f"n2_{i}.JPEG", 64, seed=i)
        write_image(folder / "train" / "n1" / "images" / f"n1_{i}.JPEG", 64, "L", seed=i)
    write_image(folder / "train" / "n0" / "images" / "n0_0.JPEG", 64)  # not in wnids.txt
    for i in range(3):
        write_image(folder / "val" / "images" / f"val_{i}.JPEG", 64, "L", seed=i)
    lines = [
        "val_0.JPEG\tn2\t0\t0\t62\t62",
        "val_1.JPEG\tn1\t1\t1\t2\t2",
        "val_2.JPEG\tn3\t0\t0\t9\t9",
    ]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "wnids.txt").write_text("n2\nn1\nn3\n")
    return tmp_path


def test_tiny_imagenet_layout(tiny: Path) -> None:
    for root in (tiny, tiny / "tiny-imagenet-200"):
        assert describe(settings("tiny_imagenet", root), test=True).classes == 2
        data = evaluate(settings("tiny_imagenet", root))
        assert next(data.train.once(8))[1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        x, y = next(data.test.once(8))
        assert x.shape == (2, 3, 64, 64) and y.tolist() == [1, 0]
    annotations = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG n2\n")
    text = error_of(ValueError, evaluate, settings("tiny_imagenet", tiny))
    assert text.startswith(f"{annotations}: line 1 ")


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 training and 10 test images in the layout of CIFAR-10, with their own checksums."""
    folder.mkdir(parents=True)
    made = np.random.default_rng(0)
    sums: dict[str, str] = {}
    for name in ("data_batch_1", "data_batch_2", "test_batch", "batches.meta"):
        entry: dict[str, Any] = {"data": made.integers(0, 256, (10, 3072), dtype=np.uint8)}
        entry |= {"labels": list(range(10)), "label_names": [str(i) for i in range(10)]}
        content = pickle.dumps(entry)
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    training = [[name, sums[name]] for name in ("data_batch_1", "data_batch_2")]
    monkeypatch.setattr(cifar, "train_list", training)
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": sums["batches.meta"]})


def test_cifar_layouts_and_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder, monkeypatch)
    first = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0].reshape(3, 32, 32)
    shutil.copytree(folder, tmp_path / "renamed")
    for root in (tmp_path, folder, tmp_path / "renamed"):
        data = evaluate(settings("cifar10", root, mean=[0.0] * 3, std=[1.0] * 3))
        assert (len(data.train), len(data.test)) == (20, 10)
        x, y = next(data.train.once(20))
        assert torch.allclose(x[0], torch.from_numpy(first) / 255) and y[3] == 3
    chosen = settings("cifar10", tmp_path)
    (folder / "data_batch_2").write_bytes(b"cut short")
    text = error_of(ValueError, search, chosen)
    assert text.startswith(f"{folder / 'data_batch_2'}: not the published file")
    (folder / "data_batch_2").unlink()
    for action in (describe, search, evaluate):
        text = error_of(FileNotFoundError, action, chosen)
        assert text.startswith("dataset.root: cifar10 needs data_batch_2 in ")
        assert "NASBENCH_DATA" in text and "dataset.download=true" in text


def test_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("Error downloading x:\nTried y, got:\nz")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    text = error_of(FileNotFoundError, search, settings("mnist", tmp_path, download=True))
    assert text == "dataset.download: cannot fetch mnist (Error downloading x:)"


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


def test_mnist_layout(tmp_path: Path) -> None:
    made = np.random.default_rng(0)
    for start, n in (("train", 20), ("t10k", 5)):
        raw = tmp_path / "FashionMNIST" / "raw"
        images = made.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{start}-images-idx3-ubyte", images)
        write_idx(raw / f"{start}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    for root in (tmp_path, tmp_path / "FashionMNIST", raw):
        data = evaluate(settings("fashion_mnist", root))
        assert (len(data.train), len(data.test)) == (20, 5)
        x, y = next(data.test.once(5))
        pixels = (x * data.info.std[0] + data.info.mean[0]) * 255
        assert np.allclose(pixels[:, 0], images, atol=1e-2) and y.tolist() == [0, 1, 2, 3, 4]
        error_of(FileNotFoundError, describe, settings("mnist", root))  # the same file names
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03rubbish")
    text = error_of(ValueError, search, settings("fashion_mnist", tmp_path))
    assert text.startswith(f"{raw}: cannot read train-images-idx3-ubyte")


def test_svhn_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.io

    made = np.random.default_rng(0)
    files = dict(torchvision.datasets.SVHN.split_list)
    for part, n in (("train", 12), ("test", 4)):
        images = made.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        name = f"{part}_32x32.mat"
        scipy.io.savemat(tmp_path / name, {"X": images, "y": 1 + np.arange(n)[:, None] % 10})
        checksum = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
        files[part] = ["", name, checksum]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    data = evaluate(settings("svhn", tmp_path, mean=[0.0] * 3, std=[1.0] * 3))
    x, y = next(data.test.once(4))
    assert len(data.train) == 12 and y.tolist() == [1, 2, 3, 4]
    assert np.allclose(x * 255, images.transpose(3, 2, 0, 1), atol=1e-3)


def test_digits_test_part_is_a_fifth_of_every_class_and_apart() -> None:
    data, searched = evaluate(settings("digits", None)), search(settings("digits", None))
    (x, y), (tx, ty) = next(data.train.once(1442)), next(data.test.once(355))
    assert torch.bincount(y + 0).tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert torch.bincount(ty).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-3  # the numbers in digits.yaml
    assert x.amax() == pytest.approx((1 - data.info.mean[0]) / data.info.std[0])
    held_back = {image.numpy().tobytes() for image in tx}
    for split in (searched.search_train, searched.search_valid):
        assert not held_back & {image.numpy().tobytes() for image in next(split.once(1442))[0]}


def reachable(thing: Any, seen: set[int]) -> Iterator[Any]:
    """Everything that can be reached from ``thing`` by attributes and items."""
    if id(thing) in seen or isinstance(thing, torch.Tensor | type):
        return
    seen.add(id(thing))
    yield thing
    inner = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    if isinstance(thing, dict):
        inner += [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set):
        inner += list(thing)
    for part in inner:
        yield from reachable(part, seen)


@pytest.mark.parametrize("resident", [True, False])
def test_search_has_no_path_to_test(
    pictures: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: bool
) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    shutil.rmtree(pictures / "test")
    shutil.rmtree(tiny / "tiny-imagenet-200" / "val")
    for name, size in (("cifar10", 32), ("image_folder", 12), ("tiny_imagenet", 64)):
        data = search(settings(name, tmp_path, resident=resident, image_size=size))
        assert len(data.search_train) > 0 < len(data.search_valid)
        assert set(vars(data)) == {"search_train", "search_valid", "info"}
        for thing in reachable(data, set()):
            assert not isinstance(thing, os.PathLike) or "test" not in Path(thing).parts[-4:]
            assert not isinstance(thing, str) or "test" not in thing
            assert not type(thing).__module__.startswith("nasbench.data.sources")
        with pytest.raises(FileNotFoundError):
            evaluate(settings(name, tmp_path, resident=resident, image_size=size))


def test_resident_sets_must_fit() -> None:
    about = describe(settings("cifar10", None, download=True))
    require_room(50000, about, CPU)
    text = error_of(ValueError, require_room, 10**9, about, CPU)
    assert text.startswith("dataset.resident: ") and "dataset.resident=false" in text


def real(name: str) -> Path:
    root = Path(os.environ.get("NASBENCH_DATA", ""))
    if "NASBENCH_DATA" not in os.environ or not (root / name).is_dir():
        pytest.skip(f"set NASBENCH_DATA to a folder with {name}")
    return root


def test_real_cifar10() -> None:
    data = evaluate(settings("cifar10", real("cifar-10-batches-py"), limit_train=1000))
    assert len(data.test) == 10000 and torch.bincount(next(data.test.once(10000))[1]).eq(1000).all()
    x, _ = next(data.train.once(1000))
    assert x.shape == (1000, 3, 32, 32) and abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05


def test_real_tiny_imagenet_excerpt() -> None:
    name = "tiny-imagenet-200-mini"
    chosen = settings("tiny_imagenet", real(name), folder=name)
    data = evaluate(chosen)
    assert (data.info.classes, len(data.train), len(data.test)) == (10, 500, 100)
    assert torch.bincount(next(data.train.once(500))[1]).tolist() == [50] * 10
    assert torch.bincount(next(data.test.once(100))[1]).tolist() == [10] * 10
