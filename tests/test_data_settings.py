"""Every configuration is complete and sound, and every bad value is one line that names its key."""

from pathlib import Path

import pytest
import yaml

from nasbench.data import DatasetSettings, describe
from nasbench.data.sources import source

CONF = Path(__file__).parents[1] / "conf" / "dataset"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def settings(file: str, /, **changes: object) -> DatasetSettings:
    values = yaml.safe_load((CONF / f"{file}.yaml").read_text())
    values.pop("defaults", None)
    return DatasetSettings(**values | changes)


def test_the_promised_sets_are_there() -> None:
    promised = (
        "digits cifar10 cifar100 svhn fashion_mnist mnist tiny_imagenet imagenet image_folder"
    )
    assert set(promised.split()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_is_valid_and_names_itself(name: str) -> None:
    assert settings(name).name == name
    source(name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"digits"}))
def test_without_data_the_error_says_which_files_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        describe(settings(name), environ={"NASBENCH_DATA": str(tmp_path / "none")})
    text = str(caught.value)
    assert "\n" not in text and text.startswith("dataset.root: ") and name in text
    assert str(tmp_path / "none") in text and "NASBENCH_DATA" in text
    fetchable = name in ("cifar10", "cifar100", "svhn", "mnist", "fashion_mnist")
    assert ("dataset.download=true" in text) == fetchable


def test_root_comes_from_the_key_then_the_environment_then_data() -> None:
    environ = {"NASBENCH_DATA": "/env"}
    assert settings("digits", root="/key").folder_root(environ) == Path("/key")
    assert settings("digits").folder_root(environ) == Path("/env")
    assert settings("digits").folder_root({}) == Path("data")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", None),
        ("name", ""),
        ("root", 3),
        ("download", "yes"),
        ("flip", 1),
        ("classes", 1),
        ("classes", "ten"),
        ("image_size", 0),
        ("image_size", 8.0),
        ("channels", 2),
        ("channels", True),
        ("mean", None),
        ("mean", [0.5, 0.5]),
        ("mean", 0.5),
        ("mean", [1.5, 0.5, 0.5]),
        ("std", [0.0, 0.5, 0.5]),
        ("std", [float("nan"), 0.5, 0.5]),
        ("crop_padding", -1),
        ("crop_padding", 32),
        ("crop_padding", True),
        ("resize", 16),
        ("color_jitter", [0.4, 0.4, 0.4, 0.6]),
        ("color_jitter", [0.4, 0.4, 0.4]),
        ("color_jitter", [0.4, 0.4, 0.4, 0.2]),  # resident
        ("random_resized_crop", True),  # resident
        ("split_seed", -1),
        ("split_seed", 0.5),
        ("limit_train", 1),
        ("limit_test", 0),
    ],
)
def test_bad_values_name_the_key(key: str, value: object) -> None:
    with pytest.raises(ValueError) as caught:
        settings("cifar10", **{key: value})
    assert str(caught.value).startswith(f"dataset.{key}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("classes", 7), ("image_size", 64), ("channels", 1)])
def test_a_set_of_fixed_size_refuses_another(key: str, value: int) -> None:
    changes = {key: value} | ({"mean": None, "std": None} if key == "channels" else {})
    with pytest.raises(ValueError, match=f"^dataset.{key}: must be "):
        describe(settings("cifar10", download=True, **changes))


def test_unknown_set_lists_the_known() -> None:
    with pytest.raises(ValueError, match="^dataset.name: 'cifar' is unknown; known are .*cifar10"):
        describe(settings("cifar10", name="cifar"))


def test_image_size_must_be_given_where_it_cannot_be_inferred() -> None:
    with pytest.raises(ValueError, match="^dataset.image_size: must be given"):
        settings("image_folder", resident=False)
