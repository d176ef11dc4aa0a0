"""The data sets by name: where their files are, how to read them, what to say if they are not."""

from .base import Source
from .digits import Digits
from .folders import ClassFolders
from .published import PublishedSet
from .tiny_imagenet import TinyImageNet
from .torchvision_parts import cifar, mnist, svhn


def source(name: str) -> Source:
    """The source that ``dataset.name`` asks for. ValueError for an unknown name."""
    known: dict[str, Source] = {
        "digits": Digits(),
        "cifar10": PublishedSet(cifar("CIFAR10"), classes=10, image_size=32, channels=3),
        "cifar100": PublishedSet(cifar("CIFAR100"), classes=100, image_size=32, channels=3),
        "svhn": PublishedSet(svhn, classes=10, image_size=32, channels=3),
        "mnist": PublishedSet(mnist("MNIST"), classes=10, image_size=28, channels=1),
        "fashion_mnist": PublishedSet(mnist("FashionMNIST"), classes=10, image_size=28, channels=1),
        "tiny_imagenet": TinyImageNet(),
        "imagenet": ClassFolders(train="train", test="val"),
        "image_folder": ClassFolders(train="train", test="test"),
    }
    if name not in known:
        raise ValueError(f"dataset.name: {name!r} is unknown; known are {', '.join(known)}")
    return known[name]


__all__ = ["Source", "source"]
