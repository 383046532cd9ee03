"""The last step of drop: which units stay, so that the *predicted time* is within the budget and the value is greatest.

A knapsack in which the price of a layer depends on two counts (groups of its input and output space). Solved by greedy
removal and exchange from several starts; a caller may add some of its own, such as a uniform narrowing. Uniform widths
are also candidates of their own, as long as they are measured within the budget and near it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.errors import BudgetError
from edgekit.nn.cut import Choice
from edgekit.nn.gates import Gates
from edgekit.nn.latency import KeptCounts, LatencyModel
from edgekit.nn.structure import Structure
from edgekit.train.pricing import choice_from_counts, whole_groups_first

FloatVector = NDArray[np.float64]
EXACT_LIMIT = 4096
"""Most choices that are all looked at: a tenth of a second."""
_CERTAIN_BONUS = 0.5
_UNDECIDED_VALUE = 0.05
_CLIP = 1e-4


@dataclass(frozen=True)
class UnitValues:
    """What keeping each unit is worth: per space the groups' values in the order in which they are kept (best first),
    that order, and the blocks' values."""

    groups: tuple[FloatVector, ...]
    order: tuple[tuple[int, ...], ...]
    blocks: FloatVector

    def total(self, structure: Structure, kept: KeptCounts) -> float:
        """Value of a choice: groups inside a dropped block count nothing."""
        value = float(self.blocks[np.array(kept.blocks, dtype=bool)].sum()) if len(self.blocks) else 0.0
        for index, values in enumerate(self.groups):
            if all(kept.blocks[block] for block in structure.guards_of_space(index)):
                value += float(values[: kept.groups[index]].sum())
        return value


@dataclass(frozen=True)
class Candidate:
    """One choice within the budget, under a name that says where it came from."""

    name: str
    kept: KeptCounts
    choice: Choice
    predicted_us: float


def learned_values(gates: Gates) -> UnitValues:
    """Value of each unit from its learned keep probability q: log-odds (plus a bonus) where the unit is more likely
    kept than not, and almost nothing below: those only fill what the budget leaves over.

    Log-odds, not probabilities: a sum of probabilities would delete the expensive blocks first.
    """
    with torch.no_grad():
        keep = gates.keep_probabilities().clamp(_CLIP, 1 - _CLIP)
        odds = torch.log(keep / (1 - keep))
        values = torch.where(odds > 0, odds + _CERTAIN_BONUS, _UNDECIDED_VALUE * keep).double().numpy()
    groups, order = [], []
    for index, space in enumerate(gates.structure.spaces):
        if index in gates.offsets:
            own = values[gates.offsets[index] : gates.offsets[index] + space.group_count]
            ranks = whole_groups_first(space, np.argsort(-own, kind="stable").tolist())
            groups.append(own[ranks])
            order.append(tuple(ranks))
        else:
            groups.append(np.zeros(space.group_count))
            order.append(tuple(range(space.group_count)))
    return UnitValues(tuple(groups), tuple(order), values[gates.group_total :])


def magnitude_order(structure: Structure, scores: Sequence[FloatVector]) -> list[list[int]]:
    """Groups of each space by falling summed score of their channels."""
    order = []
    for space, score in zip(structure.spaces, scores, strict=True):
        sums = [float(score[list(space.channels_of_group(group))].sum()) for group in range(space.group_count)]
        order.append(sorted(range(space.group_count), key=lambda group, sums=sums: -sums[group]))  # type: ignore[misc]
    return order


def check_reachable(model: LatencyModel, budget_us: float) -> None:
    """Raise BudgetError, with the smallest reachable latency, if nothing that can be dropped gets below the budget."""
    fastest_us = smallest_us(model)
    if fastest_us > budget_us:
        raise BudgetError(
            f"a budget of {budget_us:.1f} us cannot be met: the smallest reachable latency is {fastest_us:.1f} us",
            fastest_us,
            "raise --budget, choose a smaller --model, or another --format or --runtime",
        )


def smallest_us(model: LatencyModel) -> float:
    """The smallest latency that can be reached, in microseconds."""
    return model.latency_us(fastest_choice(model))


def fastest_choice(model: LatencyModel) -> KeptCounts:
    """The choice of the smallest latency: of all up to `EXACT_LIMIT`, else as far as single steps from the best of the
    smallest networks lead."""
    if choice_count(model) <= EXACT_LIMIT:
        return min(_all_choices(model), key=model.latency_us)
    fastest = min(_corner_choices(model), key=model.latency_us)
    latency_us = model.latency_us(fastest)
    while True:
        other = min((*_steps(model, fastest, -1), *_steps(model, fastest, +1)), key=model.latency_us, default=fastest)
        if model.latency_us(other) >= latency_us:
            return fastest
        fastest, latency_us = other, model.latency_us(other)


def _corner_choices(model: LatencyModel) -> Iterator[KeptCounts]:
    """Small networks: the least of everything, and that with a little more where kernels run odd widths slowly."""
    smallest = model.smallest()
    yield smallest
    for index, level in enumerate(model.levels):
        for kept in range(2, min(int(level), 4) + 1):
            yield _with_groups(smallest, index, kept)


def select(model: LatencyModel, values: UnitValues, budget_us: float, starts: Sequence[KeptCounts] = ()) -> KeptCounts:
    """The choice of greatest value whose latency is at most ``budget_us``.

    Up to `EXACT_LIMIT` choices all are looked at. Beyond: greedy removal from the full network and greedy growth from
    the fastest, both by value per microsecond, then trades until nothing improves; the same from every start that fits.
    Raises BudgetError when nothing fits.
    """
    check_reachable(model, budget_us)
    if choice_count(model) <= EXACT_LIMIT:
        fitting = (kept for kept in _all_choices(model) if model.latency_us(kept) <= budget_us)
        return max(fitting, key=lambda kept: values.total(model.structure, kept))
    grown = _grow(model, values, budget_us, fastest_choice(model))
    options = [_remove_greedily(model, values, budget_us), grown, *starts]
    improved = [
        _trade(model, values, budget_us, kept)
        for kept in options
        if kept is not None and model.latency_us(kept) <= budget_us
    ]
    return max(improved, key=lambda kept: values.total(model.structure, kept))


def uniform_choices(model: LatencyModel, budget_us: float, inner_only: bool = False) -> KeptCounts | None:
    """The widest choice within the budget that keeps the same share of every space (or of those inside blocks)."""
    spaces = model.structure.spaces
    for share in np.linspace(1.0, 0.02, 99):
        groups = []
        for space in spaces:
            touched = space.is_droppable and not (inner_only and space.is_trunk)
            groups.append(max(1, round(share * space.group_count)) if touched else space.group_count)
        kept = KeptCounts(tuple(groups), (True,) * len(model.structure.blocks))
        if model.latency_us(kept) <= budget_us:
            return kept
    return None


def candidates(
    model: LatencyModel, values: UnitValues, budget_us: float, magnitudes: Sequence[FloatVector]
) -> list[Candidate]:
    """Choices within the budget to train a little and compare: the learned one, uniform widths, equal inner widths, and
    uniform widths whose leftover budget is filled by the learned values."""
    structure = model.structure
    learned = select(model, values, budget_us)
    found = [("learned", learned, [list(order) for order in values.order])]
    by_magnitude = magnitude_order(structure, magnitudes)
    for name, inner_only in (("uniform", False), ("inner", True)):
        kept = uniform_choices(model, budget_us, inner_only)
        if kept is not None:
            found.append((name, kept, by_magnitude))
            wider = _grow(model, values, budget_us, kept)
            found.append((f"{name}+fill", wider, [list(order) for order in values.order]))
    unique: dict[KeptCounts, Candidate] = {}
    for name, kept, order in found:
        if kept not in unique:
            unique[kept] = _candidate(model, name, kept, order)
    return list(unique.values())


def filled(model: LatencyModel, values: UnitValues, budget_us: float, candidate: Candidate) -> Candidate:
    """The candidate with what fits into the rest of the budget added by learned value; itself if nothing does."""
    kept = _grow(model, values, budget_us, candidate.kept)
    if kept == candidate.kept:
        return candidate
    name = candidate.name if candidate.name.endswith("+fill") else f"{candidate.name}+fill"
    return _candidate(model, name, kept, [list(order) for order in values.order])


def _candidate(model: LatencyModel, name: str, kept: KeptCounts, order: list[list[int]]) -> Candidate:
    return Candidate(name, kept, choice_from_counts(model.structure, kept, order), model.latency_us(kept))


def choice_count(model: LatencyModel) -> int:
    """Number of different choices."""
    return math.prod(int(level) for level in model.levels) * (1 << len(model.structure.blocks))


def _all_choices(model: LatencyModel) -> Iterator[KeptCounts]:
    spaces = model.structure.spaces
    counts = [range(1, space.group_count + 1) if space.is_droppable else (space.group_count,) for space in spaces]
    blocks = list(product((True, False), repeat=len(model.structure.blocks)))
    for groups in product(*counts):
        yield from (KeptCounts(groups, stays) for stays in blocks)


def _with_groups(kept: KeptCounts, space: int, groups: int) -> KeptCounts:
    changed = list(kept.groups)
    changed[space] = groups
    return KeptCounts(tuple(changed), kept.blocks)


def _with_block(kept: KeptCounts, block: int, stays: bool) -> KeptCounts:
    changed = list(kept.blocks)
    changed[block] = stays
    return KeptCounts(kept.groups, tuple(changed))


def _steps(model: LatencyModel, kept: KeptCounts, direction: int) -> Iterator[KeptCounts]:
    """All choices one step smaller (-1) or larger (+1); steps of up to three groups jump over plateaus of the time."""
    for index, level in enumerate(model.levels):
        for size in (1, 2, 3):
            groups = kept.groups[index] + direction * size
            if level > 1 and 1 <= groups <= level:
                yield _with_groups(kept, index, groups)
    for block, stays in enumerate(kept.blocks):
        if stays == (direction < 0):
            yield _with_block(kept, block, not stays)
            if not stays:
                yield _with_block(_narrowed(model, kept, block), block, True)


def _narrowed(model: LatencyModel, kept: KeptCounts, block: int) -> KeptCounts:
    """With one group in every space inside a block: a dropped block may only fit in again when it is narrow."""
    structure = model.structure
    inside = [block in structure.guards_of_space(i) and level > 1 for i, level in enumerate(model.levels)]
    return KeptCounts(tuple(1 if i else n for i, n in zip(inside, kept.groups, strict=True)), kept.blocks)


def _remove_greedily(model: LatencyModel, values: UnitValues, budget_us: float) -> KeptCounts | None:
    kept = model.full()
    latency_us = model.latency_us(kept)
    while latency_us > budget_us:
        worth = values.total(model.structure, kept)
        best, best_price = None, math.inf
        for smaller in _steps(model, kept, -1):
            saved_us = latency_us - model.latency_us(smaller)
            lost = worth - values.total(model.structure, smaller)
            price = lost / saved_us if saved_us > 1e-9 else math.inf
            if price < best_price:
                best, best_price = smaller, price
        if best is None:
            return None
        kept, latency_us = best, model.latency_us(best)
    return kept


def _grow(
    model: LatencyModel, values: UnitValues, budget_us: float, kept: KeptCounts, avoid: KeptCounts | None = None
) -> KeptCounts:
    """Add what fits, the most value per microsecond first; a step that would lead to ``avoid`` is not taken."""
    while True:
        value, latency_us = values.total(model.structure, kept), model.latency_us(kept)
        best, best_density = None, 0.0
        for larger in _steps(model, kept, +1):
            gained = values.total(model.structure, larger) - value
            if gained <= 1e-9 or larger == avoid or (larger_us := model.latency_us(larger)) > budget_us:
                continue
            density = gained / max(larger_us - latency_us, 1e-9)
            if density > best_density:
                best, best_density = larger, density
        if best is None:
            return kept
        kept = best


def _trade(model: LatencyModel, values: UnitValues, budget_us: float, kept: KeptCounts) -> KeptCounts:
    """Give one thing up for one other, and where that no longer pays for several others, as long as the value rises."""
    while True:
        kept = _exchange(model, values, budget_us, kept)
        value = values.total(model.structure, kept)
        smaller = [base for base in _steps(model, kept, -1) if model.latency_us(base) <= budget_us]
        regrown = [_grow(model, values, budget_us, base, avoid=kept) for base in smaller]
        best = max(regrown, key=lambda other: values.total(model.structure, other), default=kept)
        if values.total(model.structure, best) <= value + 1e-9:
            return kept
        kept = best


def _exchange(model: LatencyModel, values: UnitValues, budget_us: float, kept: KeptCounts) -> KeptCounts:
    """Add what fits, or give one thing up for one other, as long as the value rises."""
    structure = model.structure
    value = values.total(structure, kept)
    while True:
        best, best_value = None, value + 1e-9
        for base in (kept, *_steps(model, kept, -1)):
            for other in _steps(model, base, +1):
                gained = values.total(structure, other)
                if gained > best_value and model.latency_us(other) <= budget_us:
                    best, best_value = other, gained
        if best is None:
            return kept
        kept, value = best, best_value
