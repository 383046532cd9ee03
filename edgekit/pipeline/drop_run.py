"""The drop method, from a dense network to a small one: learn gates, choose within the budget, compare, fine-tune.

What is timed here is timed on the target; predictions only choose what to time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BudgetError
from edgekit.nn.cut import Choice, cut_network
from edgekit.nn.estimators import make_estimator
from edgekit.nn.gates import GateOptions, Gates
from edgekit.nn.latency import KeptCounts, LatencyModel
from edgekit.nn.network import Network, clone
from edgekit.pipeline.settings import TrainSettings
from edgekit.pipeline.workspace import Workspace
from edgekit.train.drop import DropStage, DualAscent, FixedWeight, PenaltyWeight
from edgekit.train.pricing import choice_from_counts
from edgekit.train.selection import Candidate, UnitValues, candidates, filled, learned_values, smallest_us

_TIMING_REPEATS, _TIMING_SECONDS = 3, 0.4
MARGIN = 0.985
"""Share of the budget that is aimed at: a measured time may lie a little above its prediction."""
LOWEST_SHARE = 0.93
"""A learned choice whose measured time is below this share of the budget leaves accuracy on the table."""


@dataclass(frozen=True)
class Tried:
    """A candidate with its measured share of the dense network's time."""

    candidate: Candidate
    measured_us: float
    dense_us: float

    @property
    def share(self) -> float:
        """Measured time over that of the dense network, timed beside it."""
        return self.measured_us / self.dense_us


@dataclass(frozen=True)
class Dense:
    """The dense network twice: ``warm``, where small networks start, and ``final``, their teacher and yardstick."""

    warm: Network
    final: Network


@dataclass(frozen=True)
class Searched:
    """What learning the gates left behind: the network with its weights, the gates, and the drop stage."""

    network: Network
    gates: Gates
    stage: DropStage


@dataclass(frozen=True)
class Trained:
    """A small network that was trained to the end, and where it came from."""

    name: str
    network: Network
    choice: Choice
    penalty_per_ms: float | None = None


def search_end(settings: TrainSettings) -> float:
    """Share of the schedule at which the gates are learned."""
    return min(1.0, settings.warmup_share + settings.search_share)


def learn_gates(work: Workspace, dense: Dense, stage: str, penalty_per_ms: float | None = None) -> Searched:
    """Train weights and gates together from the warm dense network; with a fixed lambda, or by dual ascent."""
    settings = work.settings
    options = GateOptions(settings.scope, settings.coefficient_low, settings.coefficient_high)
    gates = Gates(work.structure, work.steering, make_estimator(settings.estimator), options)
    weight: PenaltyWeight
    if penalty_per_ms is not None:
        weight = FixedWeight(penalty_per_ms)
    else:
        start_us = float(gates.expected_latency().detach())
        weight = DualAscent(start_us=start_us, budget_us=work.budget_us, dense_us=gates.dense_us())
    drop = DropStage(gates, weight, settings.seed, stage, settings.gate_learning_rate)
    network = clone(dense.warm)
    recipe = work.recipe(settings.warmup_share, search_end(settings), distil=True)
    work.train_stage(stage, network, recipe, teacher=dense.final, gates=drop)
    return Searched(network, gates, drop)


def run_to_budget(work: Workspace, dense: Dense, aim: float = 1.0, suffix: str = "") -> tuple[Trained, Searched]:
    """The single run: learn gates by dual ascent, choose candidates whose *measured* time fits, train each a little,
    and fine-tune the best. ``aim``: share of the budget to stay within, lower when an earlier attempt (``suffix`` tells
    the stages of this one apart) missed it."""
    searched = learn_gates(work, dense, "search")
    tried = _candidates_in_budget(work, searched, aim, f"candidates{suffix}")
    best, network = _best_of_trials(work, searched, dense, tried, suffix)
    start = min(1.0, search_end(work.settings) + work.settings.trial_share)
    work.train_stage(f"fine-tune{suffix}", network, work.recipe(start, 1.0, distil=True), teacher=dense.final)
    return Trained("chosen", network, best.candidate.choice), searched


def run_sweep(work: Workspace, dense: Dense) -> list[tuple[Trained, Searched]]:
    """One model per lambda: units more likely dropped than kept go, the rest is fine-tuned."""
    results = []
    for index, penalty in enumerate(work.settings.penalty_sweep):
        searched = learn_gates(work, dense, f"sweep{index}-search", penalty)
        kept = likely_kept(searched.gates)
        order = [list(ranks) for ranks in learned_values(searched.gates).order]
        choice = choice_from_counts(work.structure, kept, order)
        network = _cut(work, searched, choice)
        recipe = work.recipe(search_end(work.settings), 1.0, distil=True)
        work.train_stage(f"sweep{index}-fine-tune", network, recipe, teacher=dense.final)
        trained = Trained(f"lambda={penalty:g}", network, choice, penalty)
        results.append((trained, searched))
    return results


def likely_kept(gates: Gates) -> KeptCounts:
    """What a threshold of one half keeps: units whose drop probability is below it, at least one group of a space."""
    keep = gates.keep_probabilities().detach() > 0.5
    groups = []
    for index, space in enumerate(gates.structure.spaces):
        start = gates.offsets.get(index)
        kept = space.group_count if start is None else int(keep[start : start + space.group_count].sum())
        groups.append(max(1, kept))
    return KeptCounts(tuple(groups), tuple(bool(x) for x in keep[gates.group_total :]))


def _candidates_in_budget(work: Workspace, searched: Searched, aim: float, stage: str) -> list[Tried]:
    """Candidates to be compared by training, or the stored ones of a resumed run."""
    stored = work.run.finished(stage)
    if stored is not None:
        return [_tried_from(item) for item in stored["tried"]]
    if work.settings.latency_source == "macs":
        # A method that knows no device cannot know which of its candidates fit.
        found = candidates(
            work.steering, learned_values(searched.gates), aim * work.budget_us, _magnitudes(work, searched.network)
        )
        tried = _time_beside_dense(work, searched, found)
    else:
        tried = _measured_in_budget(work, searched, aim)
    work.run.finish(stage, {"tried": [_tried_to(item) for item in tried]})
    return tried


def _measured_in_budget(work: Workspace, searched: Searched, aim: float) -> list[Tried]:
    """Candidates by every rule, timed beside the dense network, the correction factor moved by what was measured and
    the choice made again until the learned one lies within the budget and near it.

    Those far below the budget are left out where others are near it: they give accuracy away.
    """
    budget_us = aim * work.budget_us
    budget_share = budget_us / work.baseline_us
    values, magnitudes = learned_values(searched.gates), _magnitudes(work, searched.network)
    model = work.steering
    fitting: dict[str, Tried] = {}
    for _ in range(work.settings.max_corrections + 1):
        found = candidates(model, values, _aimed_at(model, budget_us), magnitudes)
        timed = _time_beside_dense(work, searched, found)
        for tried in timed:
            if tried.share <= budget_share and _is_better(tried, fitting.get(tried.candidate.name)):
                fitting[tried.candidate.name] = tried
        learned = timed[0]
        if LOWEST_SHARE * budget_share <= learned.share <= budget_share:
            break
        model = model.scaled_to(learned.share * work.baseline_us, learned.candidate.predicted_us)
        if smallest_us(model) > budget_us:
            break
    if not fitting:
        raise _none_fits(work, timed)
    near = [tried for tried in fitting.values() if tried.share >= LOWEST_SHARE * budget_share]
    return near or [_filled_up(work, searched, values, max(fitting.values(), key=lambda tried: tried.share), budget_us)]


def _filled_up(work: Workspace, searched: Searched, values: UnitValues, start: Tried, budget_us: float) -> Tried:
    """A candidate far below the budget, enlarged step by step as long as its *measured* time fits.

    Predictions are anchored at what was measured last, so that only those of the steps matter: two choices on either
    side of the budget may be predicted in the wrong order, and choosing anew would jump between them.
    """
    budget_share = budget_us / work.baseline_us
    best, aim_us = start, budget_us
    for _ in range(work.settings.max_corrections + 1):
        best_us = best.share * work.baseline_us
        anchored = work.steering.scaled_to(best_us, work.steering.latency_us(best.candidate.kept))
        larger = filled(anchored, values, aim_us, best.candidate)
        if larger is best.candidate:
            break
        (tried,) = _time_beside_dense(work, searched, [larger])
        if tried.share <= budget_share:
            best = tried
        else:
            aim_us = (best_us + aim_us) / 2
        if best.share >= LOWEST_SHARE * budget_share:
            break
    return best


def _none_fits(work: Workspace, timed: Sequence[Tried]) -> BudgetError:
    # As compared with the budget: at the speed that the machine had when the budget was set.
    fastest_us = min(tried.share for tried in timed) * work.baseline_us
    return BudgetError(
        f"no candidate was measured within {work.budget_us:.1f} us; the fastest took {fastest_us:.1f} us",
        fastest_us,
        "raise --budget a little, or choose a smaller --model",
    )


def _aimed_at(model: LatencyModel, budget_us: float) -> float:
    """The budget less its margin, or as much of the margin as the smallest reachable network needs."""
    return max(budget_us * MARGIN, min(budget_us, smallest_us(model)))


def _is_better(tried: Tried, known: Tried | None) -> bool:
    return known is None or tried.share > known.share


def _time_beside_dense(work: Workspace, searched: Searched, found: Sequence[Candidate]) -> list[Tried]:
    """Times of the candidates and the dense network: of several timings, the one with the median ratio of the two.

    One timing of tens of microseconds can be off by a tenth on a busy machine, and whatever was measured too slow would
    win the place just below the budget.
    """
    networks = [work.initial, *(_cut(work, searched, candidate.choice) for candidate in found)]
    repeats = [work.time(networks, _TIMING_SECONDS) for _ in range(_TIMING_REPEATS)]
    tried = []
    for index, candidate in enumerate(found, start=1):
        options = [Tried(candidate, times[index].median_us, times[0].median_us) for times in repeats]
        tried.append(sorted(options, key=lambda option: option.share)[_TIMING_REPEATS // 2])
    return tried


def _best_of_trials(
    work: Workspace, searched: Searched, dense: Dense, tried: Sequence[Tried], suffix: str
) -> tuple[Tried, Network]:
    """Train each candidate for its part of the trial epochs; the most accurate on the validation split goes on."""
    networks = [_cut(work, searched, item.candidate.choice) for item in tried]
    settings = work.settings
    start = search_end(settings)
    stop = min(1.0, start + settings.trial_share / len(tried))
    if len(tried) == 1 or stop <= start:
        return tried[0], networks[0]
    recipe = work.recipe(start, stop, distil=True)
    scores = [
        work.train_stage(f"trial-{item.candidate.name}{suffix}", network, recipe, teacher=dense.final)["accuracy"]
        for item, network in zip(tried, networks, strict=True)
    ]
    best = int(np.argmax(scores))
    return tried[best], networks[best]


def _cut(work: Workspace, searched: Searched, choice: Choice) -> Network:
    return cut_network(searched.network, work.structure, choice, gain=work.settings.coefficient_high)


def _magnitudes(work: Workspace, network: Network) -> list[NDArray[np.float64]]:
    """Per space and channel, the summed scale of the batch normalisations (or norm of the weights) that write it."""
    result = []
    for space in work.structure.spaces:
        total = np.zeros(space.size)
        for writer in space.writers:
            parts = network.layer_modules[writer]
            if parts.batch_norm is not None and parts.batch_norm.affine:
                total += parts.batch_norm.weight.detach().abs().double().numpy()
            elif parts.operator is not None:
                total += parts.operator.weight.detach().flatten(1).norm(dim=1).double().numpy()
        result.append(total)
    return result


def _tried_to(tried: Tried) -> dict[str, Any]:
    candidate = tried.candidate
    return {
        "name": candidate.name,
        "groups": candidate.kept.groups,
        "blocks": candidate.kept.blocks,
        "channels": candidate.choice.channels,
        "dropped": sorted(candidate.choice.dropped),
        "predicted_us": candidate.predicted_us,
        "measured_us": tried.measured_us,
        "dense_us": tried.dense_us,
    }


def _tried_from(item: dict[str, Any]) -> Tried:
    choice = Choice(tuple(tuple(channels) for channels in item["channels"]), frozenset(item["dropped"]))
    kept = KeptCounts(tuple(item["groups"]), tuple(item["blocks"]))
    candidate = Candidate(item["name"], kept, choice, item["predicted_us"])
    return Tried(candidate, item["measured_us"], item["dense_us"])


__all__ = ["Searched", "Trained", "UnitValues", "learn_gates", "likely_kept", "run_sweep", "run_to_budget"]
