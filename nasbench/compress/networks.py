"""The networks to compress: plain chains (LeNets) and ResNet-18, with every width free.

Each network says which outputs feed which inputs (`junctions`), and can be built with any width per
layer, so that a pruned one can be rebuilt small.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from algorithms.weight_priors import Junction


class Select(nn.Module):
    """Some inputs of a linear layer: [N, F] -> [N, len(index)]."""

    index: Tensor

    def __init__(self, index: Tensor):
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


class Chain(nn.Module):
    """Convolutions (ReLU, 2x2 max-pooling), then hidden linear layers (ReLU) and the classifier.

    kernel 5 without padding is LeNet-5 in the Caffe form; images under 16 pixels get 3x3 kernels
    with padding, so that two halvings still fit. inputs[name]: which of its inputs a linear layer
    reads, by default all of them.
    """

    def __init__(self, convolutions: Sequence[int], hidden: Sequence[int], classes: int, *,
                 image_size: int, channels: int, inputs: Mapping[str, Tensor] | None = None):
        super().__init__()
        self.convolutions, self.hidden, self.classes = list(convolutions), list(hidden), classes
        self.image_size, self.channels = image_size, channels
        kernel, padding = (5, 0) if image_size >= 16 else (3, 1)
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        width, size = channels, image_size
        for i, out in enumerate(convolutions, 1):
            modules[f"conv{i}"] = nn.Conv2d(width, out, kernel, padding=padding)
            modules[f"relu_conv{i}"] = nn.ReLU()
            modules[f"pool{i}"] = nn.MaxPool2d(2)
            width, size = out, (size + 2 * padding - kernel + 1) // 2
        modules["flatten"] = nn.Flatten()
        self.spread = size * size  # flattened inputs per channel
        width *= self.spread
        for i, out in enumerate([*hidden, classes], 1):
            chosen = (inputs or {}).get(f"fc{i}")
            if chosen is not None:
                modules[f"select{i}"] = Select(chosen)
                width = len(chosen)
            modules[f"fc{i}"] = nn.Linear(width, out)
            if i <= len(hidden):
                modules[f"relu_fc{i}"] = nn.ReLU()
            width = out
        self.body = nn.Sequential(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def layers(self) -> list[str]:
        return [f"body.{name}" for name, m in self.body.named_children()
                if isinstance(m, nn.Conv2d | nn.Linear)]

    def junctions(self) -> list[Junction]:
        names = self.layers()
        last = f"body.conv{len(self.convolutions)}"
        return [Junction(f"{a}.weight", f"{b}.weight", self.spread if a == last else 1)
                for a, b in zip(names, names[1:], strict=False)]

    def norms(self) -> dict[str, str]:
        return {}

    def structure(self) -> list[int]:
        """Inputs and units as the literature writes them: 784-300-100, 20-50-800-500."""
        first = self.body.get_submodule("fc1")
        assert isinstance(first, nn.Linear)
        return [*self.convolutions, first.in_features, *self.hidden]


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm around a residual connection; inner = 0: none left."""

    def __init__(self, before: int, out: int, inner: int, stride: int):
        super().__init__()
        self.inner = inner
        if inner:
            self.conv1 = nn.Conv2d(before, inner, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner)
            self.conv2 = nn.Conv2d(inner, out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 and before == out else nn.Sequential(
            nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.shortcut(x)
        if self.inner:
            y = y + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y)


class ResNet18(nn.Module):
    """He et al. 2016 for small images: 3x3 stem without pooling, four stages of two blocks.

    widths: of the stages; inner: of each of the eight blocks, by default the stage's.
    """

    def __init__(self, widths: Sequence[int], classes: int, *, channels: int,
                 inner: Sequence[int] | None = None):
        super().__init__()
        self.widths, self.classes, self.channels = list(widths), classes, channels
        self.inner = list(inner or [w for w in widths for _ in (0, 1)])
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
                                  nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks, before = nn.ModuleList(), widths[0]
        for i, width in enumerate(self.inner):
            out = widths[i // 2]
            self.blocks.append(Block(before, out, width, 2 if i in (2, 4, 6) else 1))
            before = out
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean(dim=(2, 3)))

    def layers(self) -> list[str]:
        """What may be pruned: the convolutions of the residual branches."""
        return [f"blocks.{i}.conv{j}" for i, b in enumerate(self.blocks) if b.inner for j in (1, 2)]

    def junctions(self) -> list[Junction]:
        return [Junction(f"blocks.{i}.conv1.weight", f"blocks.{i}.conv2.weight")
                for i, b in enumerate(self.blocks) if b.inner]

    def norms(self) -> dict[str, str]:
        """The batch norm behind each prunable layer."""
        return {name: name.replace("conv", "bn") for name in self.layers()}

    def structure(self) -> list[int]:
        """Inner widths of the eight blocks; 0: the branch is gone."""
        return self.inner


Prunable = Chain | ResNet18


def build(network: str, widths: Sequence[int], classes: int, image_size: int, channels: int
          ) -> Prunable:
    """The dense network; ValueError for an image it cannot take."""
    if network == "resnet18":
        return ResNet18(widths, classes, channels=channels)
    if network == "lenet" and image_size < 4:
        raise ValueError(f"compress.network: lenet needs images of 4 pixels or more, the data set "
                         f"has {image_size}")
    split = 2 if network == "lenet" else 0
    return Chain(widths[:split], widths[split:], classes, image_size=image_size, channels=channels)
