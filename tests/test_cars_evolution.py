"""Individuals and genetic operators of CARS."""

from __future__ import annotations

from collections import Counter

import cars_landscape as landscape
import numpy as np
import pytest
import torch
from harness import DARTS_OPERATIONS
from scipy.stats import chisquare

from algorithms import pareto
from algorithms.evolution import Encoding, Operators, cross, mutate
from search_spaces import CellSpace, Genotype, load_genotype

SPACE = CellSpace(DARTS_OPERATIONS)
PLAIN, WITH_NONE = Encoding(SPACE), Encoding(SPACE, include_none=True)


def sample(encoding: Encoding, count: int, seed: int = 0) -> list:
    rng = torch.Generator().manual_seed(seed)
    return [encoding.random(rng) for _ in range(count)]


def test_sampler_is_uniform() -> None:
    individuals = sample(PLAIN, 3000)
    for i in range(PLAIN.nodes):
        pairs = Counter(tuple(e for e, _ in one[i]) for one in individuals)
        inputs = 2 + i % 4
        assert len(pairs) == inputs * (inputs - 1) // 2
        if len(pairs) > 1:
            assert chisquare(list(pairs.values())).pvalue > 1e-3
        for slot in (0, 1):
            drawn = Counter(one[i][slot][1] for one in individuals)
            assert sorted(drawn) == list(SPACE.real)
            assert chisquare(list(drawn.values())).pvalue > 1e-3
    both = Counter((one[3][0][1], one[3][1][1]) for one in individuals)  # independent
    assert len(both) == 49 and chisquare(list(both.values())).pvalue > 1e-3


@pytest.mark.parametrize("encoding", [PLAIN, WITH_NONE], ids=["real", "none"])
def test_codes_are_legal_and_round_trips_are_identities(encoding: Encoding) -> None:
    for one in sample(encoding, 200):
        genotype = encoding.decode(one)
        assert encoding.encode(genotype) == one
        assert encoding.encode(Genotype.from_dict(genotype.to_dict())) == one
        code = encoding.mask(one)
        assert torch.equal(code, SPACE.one_hot(genotype) > 0)  # what is evaluated
        assert code.shape == (2, 14, 8) and code[:, :, 0].sum() == 0
        back = tuple(tuple((e, o) for e in SPACE.incoming(node) for o in range(8) if cell[e, o])
                     for cell in code for node in SPACE.concat)
        assert back == one
        if encoding is PLAIN:
            assert all(len(node) == 2 and node[0][0] < node[1][0] for node in one)
            assert code.sum() == 16


def test_two_orders_of_a_node_are_one_individual() -> None:
    published = load_genotype("CARS_B")[1]  # lists some inputs out of index order
    swapped = {kind: getattr(published, kind).to_dict() for kind in ("normal", "reduce")}
    for cell in swapped.values():
        cell["edges"] = [cell["edges"][i ^ 1] for i in range(8)]
    swapped = Genotype.from_dict(swapped)
    assert swapped != published
    assert PLAIN.encode(swapped) == PLAIN.encode(published)
    assert torch.equal(PLAIN.mask(PLAIN.encode(published)), SPACE.one_hot(published) > 0)


def test_none_is_drawn_and_never_exported() -> None:
    individuals = sample(WITH_NONE, 2000)
    inputs = Counter(len(node) for one in individuals for node in one)
    share = np.array([inputs[k] for k in (0, 1, 2)]) / (2000 * 8)
    np.testing.assert_allclose(share, [1 / 64, 14 / 64, 49 / 64], atol=0.02)
    edges = Counter(op for one in individuals for cell in (WITH_NONE.decode(one).normal,)
                    for op, _, _ in cell.edges)
    assert "none" not in edges
    assert chisquare([edges[op] for op in DARTS_OPERATIONS[1:]]).pvalue > 1e-3  # no extra pools
    empty = next(one for one in individuals if () in one[:4])
    cell = WITH_NONE.decode(empty).normal
    assert cell.concat == tuple(2 + i for i in range(4) if empty[i])


def test_invalid_networks_are_redrawn() -> None:
    encoding = Encoding(CellSpace(("none", "skip_connect"), nodes=1), include_none=True)
    assert not encoding.valid(((), ((0, 1),)))
    assert all(encoding.valid(one) for one in sample(encoding, 50))  # a quarter of draws are not
    operators = Operators(1.0, 0.0, 0.5, shared_coin=False)
    parents = [((((0, 1)),), ((0, 1),)), (((1, 1),), ((1, 1),))]
    for seed in range(20):
        children, _ = operators.offspring(parents, encoding, torch.Generator().manual_seed(seed))
        assert all(encoding.valid(child) for child in children)


def test_crossover_takes_whole_nodes_and_mutation_redraws_about_half() -> None:
    individuals, rng = sample(PLAIN, 400), torch.Generator().manual_seed(1)
    operators = Operators(0.25, 0.25, 0.5, shared_coin=True)
    from_b = changed = 0
    for a, b in zip(individuals[::2], individuals[1::2], strict=True):
        coins = operators.coins(PLAIN, rng)
        assert coins[:4] == coins[4:]
        child = cross(a, b, coins)
        assert all(node == (b[i] if coins[i] else a[i]) for i, node in enumerate(child))
        from_b += sum(coins)
        mutant = mutate(a, coins, PLAIN, rng)
        assert all(mutant[i] == a[i] for i in range(8) if not coins[i])
        changed += sum(x != y for x, y in zip(mutant, a, strict=True))
    assert abs(from_b / 1600 - 0.5) < 0.05
    assert 0.44 < changed / 1600 < 0.52  # a redrawn node may come out as it was
    apart = [Operators(0.25, 0.25, 0.5, shared_coin=False).coins(PLAIN, rng) for _ in range(50)]
    assert any(coins[:4] != coins[4:] for coins in apart)
    rare = [sum(Operators(0.25, 0.25, 0.1, False).coins(PLAIN, rng)) for _ in range(500)]
    assert abs(np.mean(rare) - 0.8) < 0.15


def test_shares_of_the_operators_and_no_duplicates() -> None:
    operators, rng = Operators(0.25, 0.25, 0.5, shared_coin=True), torch.Generator().manual_seed(2)
    made = Counter[str]()
    for seed in range(20):
        parents = sample(PLAIN, 128, seed)
        children, counts = operators.offspring(parents, PLAIN, rng)
        assert len(children) == len(set(children) - set(parents)) == counts.total() == 128
        made += counts
    assert chisquare([made["mutation"], made["crossover"], made["new"]],
                     [640, 640, 1280]).pvalue > 1e-3


def test_children_come_from_the_population() -> None:
    """Every node of a crossover child is one of two parents'; of a mutant's about half."""
    parents, rng = sample(PLAIN, 16), torch.Generator().manual_seed(3)
    for child in Operators(0.0, 1.0, 0.5, True).offspring(parents, PLAIN, rng)[0]:
        assert any(all(x in (y, z) for x, y, z in zip(child, a, b, strict=True))
                   for a in parents for b in parents)
    kept = [max(sum(x == y for x, y in zip(child, a, strict=True)) for a in parents)
            for child in Operators(1.0, 0.0, 0.5, True).offspring(parents, PLAIN, rng)[0]]
    assert 3 < np.mean(kept) < 5.5


def test_a_converged_population_falls_back_to_fresh_children() -> None:
    encoding = Encoding(CellSpace(("skip_connect", "sep_conv_3x3"), nodes=1))
    a, b = ((0, 0), (1, 0)), ((0, 1), (1, 1))
    parents = [(a, a), (a, b), (b, a), (b, b)]  # closed under crossover
    children, made = Operators(0.0, 1.0, 0.5, False).offspring(
        parents, encoding, torch.Generator().manual_seed(0))
    assert len(set(children) - set(parents)) == 4 and made == {"new": 4}


def test_size_of_the_space() -> None:
    assert PLAIN.size == (1 * 3 * 6 * 10 * 7**8) ** 2
    space = CellSpace(("none", "skip_connect", "sep_conv_3x3"), nodes=1)
    assert len(set(sample(Encoding(space), 400))) == Encoding(space).size == 16
    assert len(set(sample(Encoding(space, include_none=True), 800))) == 64  # not the empty cells


def test_search_beats_random_where_nothing_moves() -> None:
    """Hypervolume at equal evaluations in the matured landscape."""
    def select(error, speed, size, count, rng):
        sortings = pareto.protected_sortings(error, 100 - error, size[:, None])
        return pareto.select_union(sortings, count, rng)

    population, generations, wins = 48, 20, 0
    for seed in range(10):
        world, last, _ = landscape.evolve(select, seed, population=population, mature=True,
                                          generations=generations, epochs=1, warm_up=1)
        fresh = sample(landscape.ENCODING, 2 * population * generations, 100 + seed)
        volume = [pareto.hypervolume(np.stack(
            [100 - world.accuracies(group, world.exposure), landscape.sizes(group)], axis=1),
            [26, 15]) for group in (last, fresh)]
        wins += volume[0] > volume[1]
    assert wins >= 9
