"""ASAP: annealing, grace, pruning, freezing, derivation, against numbers computed by hand."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
import torch
from harness import DARTS_OPERATIONS, SMALL_OPERATIONS, images, make_problem, run_steps
from torch import Tensor, nn

from algorithms.asap import ASAP, pac_radius
from algorithms.strategy import Gradients, Problem
from search_spaces import CELL_TYPES, CellSpace, FinalNetwork, Mixing, SearchNetwork, load_genotype

PAPER: dict[str, Any] = {
    "learning_rate": 3e-4, "betas": [0.5, 0.999], "weight_decay": 1e-3, "initial_temperature": 1.6,
    "temperature_decay": 0.95, "grace_temperature": 1.0, "threshold": 0.4,
    "threshold_base": "initial", "threshold_rule": "constant", "gradient_bound": 1.0, "delta": 0.05,
    "include_none": False, "input_selection": "documented"}
REAL = DARTS_OPERATIONS[1:]


def build(problem: Problem, **changes: Any) -> ASAP:
    strategy = ASAP(**{**PAPER, **changes})
    strategy.setup(problem)
    return strategy


def bare(operations: tuple[str, ...] = DARTS_OPERATIONS, nodes: int = 4, share_cells: bool = True,
         cells: int = 1) -> Problem:
    """A problem whose network is only asked for its shape."""
    network = SearchNetwork(CellSpace(operations, nodes), 2, cells, 2, image_size=8,
                            share_cells=share_cells)
    return Problem(network, None, None, None, None, torch.Generator().manual_seed(0))


def set_alpha(strategy: ASAP, alpha: Tensor) -> None:
    with torch.no_grad():
        strategy.alpha.copy_(alpha)


def keep(strategy: ASAP, live: Tensor) -> None:
    """Prune by hand: `live` are the survivors."""
    strategy._set_live(live)
    strategy.decided_at = torch.where(strategy.decided, 0, -1)


def one_each(strategy: ASAP, seed: int = 0) -> Tensor:
    """A live mask with one random real operation per edge."""
    rows, edges, operations = strategy.supernet.mixing_shape
    real = torch.tensor(strategy.supernet.space.real)
    g = torch.Generator().manual_seed(seed)
    chosen = real[torch.randint(len(real), (rows, edges), generator=g)]
    return nn.functional.one_hot(chosen, operations).bool()


# 1 -- annealing and grace


def test_temperature_and_grace() -> None:
    problem = make_problem(operations=SMALL_OPERATIONS, nodes=1)
    strategy = build(problem)
    asked = []
    gradients = problem.weights.gradients
    problem.weights.gradients = lambda *a, **k: asked.append(1) or gradients(*a, **k)
    start = torch.randn(strategy.alpha.shape, generator=torch.Generator().manual_seed(3))
    set_alpha(strategy, start)
    weights = problem.weights
    before = [w.clone() for w in weights.values()]
    for epoch in range(11):
        assert strategy.temperature == pytest.approx(1.6 * 0.95**epoch, rel=1e-12)
        if epoch == 10:
            assert not asked and torch.equal(strategy.alpha.detach(), start)
        run_steps(strategy, problem, 1)
        metrics = strategy.on_epoch_end(epoch)
        assert metrics["temperature"] == pytest.approx(1.6 * 0.95**epoch, rel=1e-12)
        assert epoch == 10 or metrics["pruned_operations"] == 0
    assert len(asked) == 1 and not torch.equal(strategy.alpha.detach(), start)
    assert any(not torch.equal(a, b) for a, b in zip(before, weights.values(), strict=True))
    assert strategy.initial_temperature * 0.95**49 == pytest.approx(0.1296, abs=1e-4)


def test_temperature_does_not_move_within_an_epoch() -> None:
    problem = make_problem()
    strategy = build(problem, initial_temperature=0.9)
    run_steps(strategy, problem, 3)
    assert strategy.temperature == 0.9


# 2 -- Gibbs-Boltzmann weights


@pytest.mark.parametrize("temperature", [0.13, 0.9, 3.0])
def test_phi_is_the_softmax_of_alpha_over_t(temperature: float) -> None:
    strategy = build(bare(REAL), initial_temperature=temperature)
    alpha = torch.randn(strategy.alpha.shape)
    set_alpha(strategy, alpha)
    expected = (alpha / temperature).exp() / (alpha / temperature).exp().sum(-1, keepdim=True)
    torch.testing.assert_close(strategy.phi().detach(), expected, atol=1e-6, rtol=0)


def test_limits_of_the_temperature() -> None:
    strategy = build(bare(REAL), initial_temperature=1e6)
    alpha = torch.randn(strategy.alpha.shape)
    set_alpha(strategy, alpha)
    assert float((strategy.phi().detach() - 1 / 7).abs().max()) < 1e-4
    strategy.initial_temperature = 1e-5
    one_hot = nn.functional.one_hot(alpha.argmax(-1), 7).float()
    torch.testing.assert_close(strategy.phi().detach(), one_hot, atol=1e-6, rtol=0)


def test_survivors_are_renormalised() -> None:
    strategy = build(bare(REAL), initial_temperature=0.5)
    set_alpha(strategy, torch.randn(strategy.alpha.shape))
    live = strategy.live.clone()
    live[0, 0, 2:] = False
    keep(strategy, live)
    phi = strategy.phi().detach()
    assert float(phi[0, 0, 2:].abs().max()) == 0
    torch.testing.assert_close(phi.sum(-1), torch.ones(phi.shape[:2]))
    torch.testing.assert_close(phi, strategy.architecture_weights())


# 3, 4 -- the alive sets and the log of every prune


def walk(base: str, operations: tuple[str, ...] = DARTS_OPERATIONS, **changes: Any
         ) -> tuple[ASAP, list[dict], list[tuple[Tensor, Tensor, Tensor]]]:
    """A search whose alpha walks at random: (phi before, live before, live after) per epoch."""
    strategy = build(bare(operations), threshold_base=base, **changes)
    g = torch.Generator().manual_seed(1)
    events, states = [], []
    for epoch in range(60):
        step = 0.1 * torch.randn(strategy.alpha.shape, generator=g)
        set_alpha(strategy, strategy.alpha.detach() + step * strategy._trainable)
        phi, before = strategy.architecture_weights(), strategy.live
        events += strategy.on_epoch_end(epoch)["prune_events"]
        states.append((phi, before, strategy.live))
    return strategy, events, states


@pytest.mark.parametrize("base", ["initial", "alive"])
def test_alive_sets_are_nested_and_never_empty(base: str) -> None:
    strategy, _, states = walk(base)
    assert int(strategy.live.sum()) < int(states[0][1].sum()) / 2  # the walk does prune
    for phi, before, after in states:
        assert bool((after <= before).all()) and bool(after.any(-1).all())
        best = phi.argmax(-1, keepdim=True)
        assert bool(after.gather(-1, best).all())


@pytest.mark.parametrize("base", ["initial", "alive"])
def test_every_prune_event_obeys_the_threshold(base: str) -> None:
    _, events, states = walk(base)
    events = json.loads(json.dumps(events))  # as read back from metrics.jsonl
    assert sum(len(e["removed"]) for e in events) == int(states[0][1].sum() - states[-1][2].sum())
    for event in events:
        theta = 0.4 / (7 if base == "initial" else len(event["weights"]))
        assert event["threshold"] == pytest.approx(theta, rel=1e-6)
        assert event["removed"] and sum(event["weights"].values()) == pytest.approx(1, abs=1e-5)
        for name, weight in event["weights"].items():
            assert (weight < theta) == (name in event["removed"]), (event, name)
    for phi, before, after in states[10:]:  # and nothing escapes the log
        count = before.sum(-1, keepdim=True) if base == "alive" else 7
        assert torch.equal(after, before & (phi >= 0.4 / count))
    assert all(event["epoch"] >= 10 for event in events)


# 5 -- the critical gap


INITIAL_GAP = {7: 1.012, 6: 1.194, 5: 1.417, 4: 1.705, 3: 2.110, 2: 2.803}
ALIVE_GAP = {7: 1.012, 6: 1.030, 5: 1.056, 4: 1.099, 3: 1.179, 2: 1.386}


@pytest.mark.parametrize("base, table", [("initial", INITIAL_GAP), ("alive", ALIVE_GAP)])
@pytest.mark.parametrize("n", range(2, 8))
@pytest.mark.parametrize("temperature", [0.13, 0.9])
def test_critical_gap(base: str, table: dict[int, float], n: int, temperature: float) -> None:
    strategy = build(bare(REAL), threshold_base=base, initial_temperature=temperature)
    live = strategy.live.clone()
    live[0, 0, n:] = False
    keep(strategy, live)
    for excess, pruned in ((-0.002, False), (0.002, True)):
        alpha = torch.zeros(strategy.alpha.shape)
        alpha[0, 0, 0] = -(table[n] + excess) * temperature
        set_alpha(strategy, alpha)
        events = strategy.prune()
        assert bool(events) is pruned
    assert events[0]["removed"] == [REAL[0]] and int(strategy.live[0, 0].sum()) == n - 1


# 6, 7 -- pruned operations are out of the computation


def test_pruned_modules_are_not_called() -> None:
    problem = make_problem(operations=DARTS_OPERATIONS, channels=2)
    strategy = build(problem, initial_temperature=0.9)
    network = problem.supernet
    names = {f"edge{s}->{t}": e for e, (s, t) in enumerate(network.space.edges)}
    called: set[tuple[int, int, int]] = set()
    for i, row in enumerate(network.rows):
        for edge, e in names.items():
            operations = network.cell(i).get_submodule(edge)
            for o, name in enumerate(DARTS_OPERATIONS):
                operations[name].register_forward_hook(
                    lambda *_, key=(row, e, o): called.add(key))

    def mult_adds() -> int:
        total = 0

        def count(module: nn.Conv2d, _: Any, y: Tensor) -> None:
            nonlocal total
            total += module.weight[0].numel() * y.numel()

        handles = [m.register_forward_hook(count) for m in network.modules()
                   if isinstance(m, nn.Conv2d)]
        run_steps(strategy, problem, 1)
        for handle in handles:
            handle.remove()
        return total

    work = []
    g = torch.Generator().manual_seed(0)
    for share in (1.0, 0.6, 0.3, 0.0):
        keep(strategy, one_each(strategy) | (
            strategy.live & (torch.rand(strategy.live.shape, generator=g) < share)))
        called.clear()
        work.append(mult_adds())
        rows = set(network.rows)
        assert called == {tuple(k) for k in strategy.live.nonzero().tolist() if k[0] in rows}
        for i, row in enumerate(network.rows):
            for edge, e in names.items():
                for o, name in enumerate(DARTS_OPERATIONS):
                    module = network.cell(i).get_submodule(edge)[name]
                    if not strategy.live[row, e, o]:
                        assert all(p.grad is None for p in module.parameters())
    assert work == sorted(work, reverse=True) and work[-1] < 0.3 * work[0]


def test_decided_supernet_is_the_network_of_the_survivors() -> None:
    problem = make_problem(operations=DARTS_OPERATIONS, cells=3)
    strategy, network = build(problem, initial_temperature=0.5), problem.supernet
    set_alpha(strategy, torch.randn(strategy.alpha.shape))
    keep(strategy, one_each(strategy))
    x, _ = images(8)
    network.eval()
    with torch.no_grad():
        found = network(x, strategy.mixing())
        before = previous = network.stem(x)
        for i, row in enumerate(network.rows):  # no coefficients: the plain sum of survivors
            cell = network.cell(i)
            states = [cell.pre0(before), cell.pre1(previous)]
            for node in network.space.concat:
                states.append(sum(
                    cell.edge(e)[DARTS_OPERATIONS[int(strategy.live[row, e].nonzero())]](
                        states[network.space.edges[e][0]])
                    for e in network.space.incoming(node)))
            before, previous = previous, torch.cat(states[2:], dim=1)
        expected = network.classifier(previous.mean(dim=(2, 3)))
    assert float((found - expected).abs().max()) < 1e-5


# 8 -- which batch trains what


def test_alpha_learns_from_valid_and_weights_from_train() -> None:
    train, valid = images(8, seed=1), images(8, seed=2)
    poison = (torch.full_like(train[0], math.nan), train[1])

    def step(train: tuple, valid: tuple, **changes: Any) -> tuple[Tensor, list[Tensor]]:
        problem = make_problem()
        strategy = build(problem, initial_temperature=0.9, **changes)
        strategy.search_step(train, valid)
        return strategy.alpha.detach(), problem.weights.values()

    alpha, _ = step(train, valid)
    assert bool((alpha != 0).any())
    poisoned, broken = step(poison, valid)
    assert torch.equal(alpha, poisoned) and bool(broken[0].isnan().any())
    frozen, _ = step(train, images(8, seed=9), learning_rate=1e-30)
    _, same = step(train, images(8, seed=9), learning_rate=1e-30)
    _, other = step(train, images(8, seed=10), learning_rate=1e-30)
    assert all(torch.equal(a, b) for a, b in zip(same, other, strict=True))
    assert float(frozen.abs().max()) < 1e-20
    assert not torch.equal(step(train, images(8, seed=10))[0], alpha)


# 9, 10 -- a planted operation, and ablations


class Planted:
    """Stands for the weights: each edge's operations give fixed random outputs, seen with noise,
    and the target of an edge is `sign` times the output of its planted operation."""

    def __init__(self, network: SearchNetwork, seed: int, sign: float = 1.0):
        self.g = torch.Generator().manual_seed(seed)
        rows, edges, operations = network.mixing_shape
        self.outputs = torch.randn(rows, edges, operations, 16, generator=self.g)
        real = torch.tensor(network.space.real)
        self.planted = real[torch.randint(len(real), (rows, edges), generator=self.g)]
        self.sign = sign

    def gradients(self, batch: Any, mixing: Mixing) -> Gradients:
        leaf = mixing.weights.clone().requires_grad_()
        noisy = self.outputs + 0.5 * torch.randn(self.outputs.shape, generator=self.g)
        index = self.planted[..., None, None].expand(*self.planted.shape, 1, 16)
        target = self.sign * noisy.gather(2, index).squeeze(2)
        loss = (torch.einsum("reo,reod->red", leaf, noisy) - target).square().mean(-1).sum()
        loss.backward()
        return Gradients(loss.detach(), leaf.grad, [])

    def step(self, batch: Any, mixing: Mixing) -> dict[str, Tensor]:
        return {"train_loss": torch.zeros(()), "train_accuracy": torch.zeros(())}


def planted(seed: int, sign: float = 1.0, **changes: Any) -> tuple[ASAP, float]:
    """A short search, rate and annealing scaled together, and the share of edges that kept the
    planted operation."""
    problem = bare(DARTS_OPERATIONS, nodes=2)
    problem.weights = Planted(problem.supernet, seed, sign)
    settings = {"learning_rate": 0.03, "temperature_decay": 0.077**(1 / 12)} | changes
    strategy = build(problem, **settings)
    for epoch in range(12):
        for _ in range(12):
            strategy.search_step((), ())
        strategy.on_epoch_end(epoch)
        if strategy.should_stop():
            break
    kept = strategy.phi().argmax(-1) == problem.weights.planted
    return strategy, float(kept.float().mean())


def test_planted_operation_survives() -> None:
    assert sum(planted(seed)[1] for seed in range(20)) / 20 >= 0.95


def test_reversed_target_does_not_select_the_plant() -> None:
    assert sum(planted(seed, sign=-1.0)[1] for seed in range(10)) / 10 < 1 / 7


def test_ablations_order_sensibly() -> None:
    rate = {"learning_rate": 0.012}  # alpha travels too little for the gap that T = 1 asks for
    full, _ = planted(0, **rate)
    flat, _ = planted(0, initial_temperature=0.999, temperature_decay=1 - 1e-9, **rate)
    none, _ = planted(0, threshold=0.0, **rate)
    assert full.should_stop() and bool(full.decided.all())
    assert int(flat.decided.sum()) <= int(full.decided.sum()) // 2 and not flat.should_stop()
    assert torch.equal(none.live, none.candidates)


@pytest.mark.parametrize("changes, key", [
    ({"threshold": 1.0}, "threshold"), ({"threshold": -0.1}, "threshold"),
    ({"temperature_decay": 1.0}, "temperature_decay"),
    ({"temperature_decay": 0.0}, "temperature_decay"),
    ({"initial_temperature": 0.0}, "initial_temperature"),
    ({"grace_temperature": 0.0}, "grace_temperature"), ({"learning_rate": 0.0}, "learning_rate"),
    ({"betas": [0.5]}, "betas"), ({"weight_decay": -1.0}, "weight_decay"),
    ({"threshold_base": "first"}, "threshold_base"), ({"threshold_rule": "x"}, "threshold_rule"),
    ({"gradient_bound": 0.0}, "gradient_bound"), ({"delta": 1.0}, "delta"),
    ({"input_selection": "first"}, "input_selection")])
def test_configuration_errors(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"^algorithm\.{key}: must be [^\n]*$"):
        ASAP(**{**PAPER, **changes})


# frozen parameters


def test_frozen_entries_do_not_move() -> None:
    problem = make_problem(operations=DARTS_OPERATIONS, channels=2)
    strategy = build(problem, initial_temperature=0.9, learning_rate=0.05)
    run_steps(strategy, problem, 2)  # momentum everywhere
    live = strategy.live.clone()
    live[1, 0, 3:] = False  # two cells are both reductions: row 1
    live[1, 2] = one_each(strategy)[1, 2]
    keep(strategy, live)
    moments = strategy.optimizer.state[strategy.alpha]
    before = [t.detach().clone() for t in (strategy.alpha, moments["exp_avg"],
                                           moments["exp_avg_sq"])]
    run_steps(strategy, problem, 3)
    after = [strategy.alpha.detach(), moments["exp_avg"], moments["exp_avg_sq"]]
    frozen = ~live | (live.sum(-1, keepdim=True) == 1)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[frozen], new[frozen])
    moved = before[0] != after[0]
    assert bool(moved[1, 1, 1:].all()) and bool(moved[1, 0, 1:3].all())  # [.., 0] is `none`


# 11 -- resuming


def test_resume_in_mid_search_is_exact() -> None:
    def fresh() -> tuple[Problem, ASAP]:
        problem = make_problem(operations=DARTS_OPERATIONS[:5], channels=2)
        return problem, build(problem, learning_rate=0.2, initial_temperature=1.2,
                              temperature_decay=0.6)

    def epoch(problem: Problem, strategy: ASAP, number: int) -> tuple[list, dict]:
        steps = run_steps(strategy, problem, 3, start=number)
        return [{k: float(v) for k, v in s.items()} for s in steps], strategy.on_epoch_end(number)

    problem, strategy = fresh()
    for number in range(4):
        epoch(problem, strategy, number)
    assert bool(strategy.decided.any()) and not bool(strategy.decided.all())
    run_steps(strategy, problem, 1)  # in mid-epoch
    file = io.BytesIO()
    torch.save([strategy.state_dict(), problem.supernet.state_dict(),
                problem.weights.optimizer.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, resumed = fresh()
    resumed.load_state_dict(saved[0])
    other.supernet.load_state_dict(saved[1])
    other.weights.optimizer.load_state_dict(saved[2])
    assert torch.equal(resumed.live, strategy.live) and resumed.temperature == strategy.temperature
    for number in range(4, 7):
        assert epoch(problem, strategy, number) == epoch(other, resumed, number)
    assert torch.equal(resumed.live, strategy.live)
    assert torch.equal(resumed.decided_at, strategy.decided_at)
    assert strategy.derive() == resumed.derive()


# 12 -- derivation and counts


def check_genotype(strategy: ASAP) -> None:
    genotype = strategy.derive()[0].genotype
    for kind in CELL_TYPES:
        cell = getattr(genotype, kind)
        for node in strategy.supernet.space.concat:
            sources = [s for _, s, t in cell.edges if t == node]
            assert len(sources) == len(set(sources)) == 2 and max(sources) < node
        assert all(op != "none" for op, _, _ in cell.edges)


@pytest.mark.parametrize("selection", ["documented", "raw_alpha", "time_of_decision"])
@pytest.mark.parametrize("share_cells", [True, False])
def test_derived_genotype_is_valid_at_any_time(selection: str, share_cells: bool) -> None:
    strategy = build(bare(share_cells=share_cells, cells=3), input_selection=selection)
    check_genotype(strategy)
    set_alpha(strategy, torch.randn(strategy.alpha.shape))
    check_genotype(strategy)
    derived = strategy.derive()[0]
    assert derived.extra["undecided_edges"] == strategy.live.shape[0] * 14
    assert "arg max" in derived.derivation and selection in derived.derivation
    assert ("cells" in derived.extra) is not share_cells
    keep(strategy, one_each(strategy))
    check_genotype(strategy)
    derived = strategy.derive()[0]
    assert derived.extra["undecided_edges"] == 0 and "arg max" not in derived.derivation
    if not share_cells:
        cells = derived.extra["cells"]
        assert len(cells) == 3 and all(len(cell["edges"]) == 8 for cell in cells)


def test_fallback_takes_the_strongest_survivor() -> None:
    strategy = build(bare(("none", "skip_connect", "sep_conv_3x3"), nodes=1))
    set_alpha(strategy, torch.tensor([0.0, 2.0, 1.0]).expand(strategy.alpha.shape))
    assert [op for op, _, _ in strategy.derive()[0].genotype.normal.edges] == ["skip_connect"] * 2
    live = strategy.live.clone()
    live[0, 0] = torch.tensor([False, False, True])
    keep(strategy, live)
    found = strategy.derive()[0]
    assert found.genotype.normal.edges == (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
    assert found.extra["undecided_edges"] == 3


def decided_case(selection: str) -> ASAP:
    """Node 2 + edges of node 3 (indices 2, 3, 4), all decided on operation 1 of 3."""
    strategy = build(bare(("none", "skip_connect", "sep_conv_3x3"), nodes=2),
                     input_selection=selection)
    live = torch.zeros_like(strategy.live)
    live[..., 1] = True
    keep(strategy, live)
    return strategy


def inputs(strategy: ASAP) -> list[int]:
    return [s for _, s, t in strategy.derive()[0].genotype.normal.edges if t == 3]


def test_input_selection_is_not_the_all_ones_tie() -> None:
    alpha = torch.zeros(2, 5, 3)
    alpha[0, 2:, 1] = torch.tensor([0.2, 0.9, 1.5])  # edges 0->3, 1->3, 2->3
    alpha[0, 2:, 2] = torch.tensor([-1.0, 0.8, 0.1])  # frozen rivals: 0.77, 0.52, 0.80
    expected = {"documented": [2, 0], "raw_alpha": [2, 1], "time_of_decision": [1, 2]}
    for selection, sources in expected.items():
        strategy = decided_case(selection)
        set_alpha(strategy, alpha)
        strategy.decided_at[0, 2:] = torch.tensor([9, 3, 5])
        assert inputs(strategy) == sources, selection
        strongest = strategy.architecture_weights()[0, 2:].amax(-1)
        assert strongest.tolist() == [1.0] * 3  # DARTS' rule could not tell


def test_ties_go_to_the_earlier_decision_then_the_lower_source() -> None:
    strategy = decided_case("documented")
    assert inputs(strategy) == [0, 1]
    strategy.decided_at[0, 2:] = torch.tensor([7, -1, 2])  # -1: undecided comes last
    assert inputs(strategy) == [2, 0]


def test_a_dead_edge_is_never_an_input() -> None:
    strategy = build(bare(("none", "skip_connect", "sep_conv_3x3"), nodes=2), include_none=True)
    assert bool(strategy.candidates.all())
    live = torch.zeros_like(strategy.live)
    live[..., 1] = True
    live[0, 2] = live[0, 3] = torch.tensor([True, False, False])  # 0->3 and 1->3 end with none
    keep(strategy, live)
    assert strategy.derive()[0].genotype.normal.edges[2:] == (("skip_connect", 2, 3),)
    live = live.clone()
    live[0, :2] = torch.tensor([True, False, False])  # node 2 has no input: 2->3 carries zeros
    keep(strategy, live)
    with pytest.raises(ValueError, match="algorithm.include_none"):
        strategy.derive()
    assert not build(bare()).candidates[..., 0].any()


@pytest.mark.parametrize("name, channels, params", [
    ("ASAP", 36, 2_538_046), ("ASAP", 44, 3_757_126), ("ASAP", 56, 6_032_386),
    ("DARTS_V2", 36, 3_349_342)])
def test_published_sizes(name: str, channels: int, params: int) -> None:
    with torch.device("meta"):
        network = FinalNetwork(load_genotype(name)[1], channels, 20, 10)
    assert sum(p.numel() for p in network.parameters()) == params


# the PAC threshold


def test_pac_radius_closed_form() -> None:
    # (2 / 0.5) sqrt(8/100 ln(pi^2 7 100^2 / 0.3)), by hand: ln(2302907.2...) = 14.6497
    assert pac_radius(0.5, 100, 7, 2.0, 0.1) == pytest.approx(4 * math.sqrt(0.08 * 14.64969), 1e-5)
    falling = [pac_radius(0.5, t, 7, 1.0, 0.05) for t in range(1, 2000)]
    assert all(a > b for a, b in zip(falling, falling[1:], strict=False))
    assert pac_radius(0.25, 10, 7, 1.0, 0.05) == 2 * pac_radius(0.5, 10, 7, 1.0, 0.05)


def test_pac_prunes_what_lags_by_more_than_the_radius() -> None:
    strategy = build(bare(REAL), threshold_rule="pac", initial_temperature=0.5, gradient_bound=0.1)
    strategy.updates = 1000
    gap = pac_radius(0.5, 1000, 7, 0.1, 0.05) * 0.5
    for excess, pruned in ((-1e-3, False), (1e-3, True)):
        alpha = torch.zeros(strategy.alpha.shape)
        alpha[1, 3, 4] = -(gap + excess)
        set_alpha(strategy, alpha)
        assert bool(strategy.prune()) is pruned


# what is recorded


def test_metrics_and_plots() -> None:
    strategy, _, _ = walk("initial")
    metrics = strategy.on_epoch_end(60)
    assert metrics["live_operations_normal"] == int(strategy.live[0].sum())
    assert metrics["live_operations_reduce"] == int(strategy.live[1].sum())
    assert metrics["decided_edges"] == int((strategy.live.sum(-1) == 1).sum()) > 0
    history = [{"phase": "search", "epoch": 60, **metrics}, {"phase": "evaluate", "epoch": 0}]
    live, temperature = strategy.plots(history)
    assert live["series"]["normal"] == [(60, metrics["live_operations_normal"])]
    assert temperature["series"]["T"] == [(60, metrics["temperature"])]


def test_stops_when_every_edge_is_decided_and_freezes_alpha() -> None:
    problem = make_problem()
    strategy = build(problem, initial_temperature=0.5)
    assert strategy.should_stop() is None
    live = one_each(strategy)
    live[1, 0] = torch.tensor([False, True, True])
    keep(strategy, live)
    assert strategy.should_stop() is None
    keep(strategy, one_each(strategy))
    assert "one operation" in strategy.should_stop()
    problem.weights.gradients = None  # never asked again
    assert "architecture_loss" not in run_steps(strategy, problem, 1)[0]
    assert strategy.updates == 0
