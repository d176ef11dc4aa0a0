"""The authors' final network: published counts, shapes, dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from search_spaces import Cell, Genotype, load_genotype
from search_spaces.darts.bayesnas_network import BayesNASCell, BayesNASNetwork, dilated


@pytest.mark.parametrize("name, cifar, imagenet", [("0.01", 2576, 4007), ("0.007", 3197, 4708),
                                                   ("0.005", 2512, 3899)])
def test_published_cells_count_exactly(name: str, cifar: int, imagenet: int) -> None:
    genotype = load_genotype(f"BayesNAS_lambda_{name}")[1]
    with torch.device("meta"):
        networks = [BayesNASNetwork(genotype, 36, 20, 10),
                    BayesNASNetwork(genotype, 48, 14, 1000, image_size=224)]
    counts = [round(sum(p.numel() for p in n.parameters()) / 1000) for n in networks]
    assert counts == [cifar, imagenet]


@pytest.mark.parametrize("size, stem", [(8, "auto"), (64, "auto"), (64, "imagenet")])
def test_forward_shapes_and_gradients(size: int, stem: str) -> None:
    network = BayesNASNetwork(load_genotype("BayesNAS_lambda_0.007")[1], 4, 3, 7, image_size=size,
                              in_channels=1, stem=stem)
    logits, auxiliary = network(torch.randn(2, 1, size, size))
    assert logits.shape == (2, 7) and auxiliary is None
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_dilated_convolution_is_full() -> None:
    layer = dilated(6, 5, 2)
    assert sum(p.numel() for p in layer.parameters()) == 2 * 6 + 6 * 6 * 25 + 6 * 6
    assert layer(torch.randn(1, 6, 8, 8)).shape == (1, 6, 4, 4)


def test_dropout_acts_on_every_operation_in_training_only() -> None:
    skips = Cell((("skip_connect", 1, 2),), (2,))
    cell = BayesNASCell(skips, 12, 12, 4, False, False, 1)
    cell.pre1 = nn.Identity()
    torch.manual_seed(0)
    x = torch.ones(2, 12, 8, 8)
    out = cell(x, x, torch.tensor(0.5))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out.amax(dim=(2, 3)), out.amin(dim=(2, 3)))  # whole channels
    network = BayesNASNetwork(Genotype(skips, skips), 4, 3, 3, image_size=8, drop_path=True)
    network.drop_rate.fill_(0.5)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(network(x)[0], network(x)[0])
    network.eval()
    assert torch.equal(network(x)[0], network(x)[0])


def test_refusals() -> None:
    genotype = Genotype(
        *[Cell((("conv_7x1_1x7", 0, 2),), (2,))] * 2)
    with pytest.raises(ValueError, match="evaluation.network: BayesNASNetwork has no layer"):
        BayesNASNetwork(genotype, 4, 3, 10)
    with pytest.raises(ValueError, match="evaluation.auxiliary_weight: must be 0"):
        BayesNASNetwork(load_genotype("BayesNAS_lambda_0.01")[1], 4, 3, 10, auxiliary=True)
