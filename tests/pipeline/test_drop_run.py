"""Between learned gates and a small network: what is timed decides, and the budget is used as far as it can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.errors import BudgetError
from edgekit.nn.network import Network
from edgekit.pipeline import workspace
from edgekit.pipeline.drop_run import Dense, learn_gates, likely_kept, run_to_budget
from edgekit.pipeline.run_directory import RunDirectory
from edgekit.pipeline.workspace import Workspace, prepare
from edgekit.train.selection import smallest_us
from edgekit.types import NumberFormat, Timing, ignore_progress
from tests.pipeline import runs

pytestmark = pytest.mark.usefixtures("steady_clock")


def prepared(tmp_path: Path, **changes: Any) -> Workspace:
    plain: dict[str, Any] = {"epochs": 1.0, "batch_size": 64}
    return prepare(runs.settings(tmp_path, **(plain | changes)), RunDirectory(tmp_path / "run"), ignore_progress)


def dense(work: Workspace) -> Dense:
    return Dense(work.initial, work.initial)


def slow_cuts(factor: float) -> Any:
    """A clock for which every network but the dense one takes longer than the profile says."""

    def times(networks: Sequence[Network], runtime: object, number_format: NumberFormat, **_: Any) -> list[Timing]:
        dense_parameters = max(network.spec.parameter_count for network in networks)
        found = runs.steady_times(networks, runtime, number_format)
        is_cut = [network.spec.parameter_count < dense_parameters for network in networks]
        pairs = zip(found, is_cut, strict=True)
        return [runs.timing(t.median_us * factor) if cut else t for t, cut in pairs]

    return times


def leaping_cuts(work: Workspace) -> Any:
    """A clock on which what is predicted at 80 % of the budget or more takes 1.6 times as long, and the rest what is
    predicted: correcting all predictions by one factor leaps from one side of the budget to the other."""

    def times(networks: Sequence[Network], runtime: object, number_format: NumberFormat, **_: Any) -> list[Timing]:
        found = runs.steady_times(networks, runtime, number_format)
        return [
            t if t.median_us > 1.5 * work.budget_us else runs.timing(t.median_us * leap(t.median_us)) for t in found
        ]

    def leap(predicted_us: float) -> float:
        return 1.6 if predicted_us >= 0.8 * work.budget_us else 1.0

    return times


def tried_us(work: Workspace) -> list[float]:
    stored = work.run.finished("candidates")
    assert stored is not None
    return [item["measured_us"] for item in stored["tried"]]


def test_units_more_likely_kept_than_dropped_stay(tmp_path: Path) -> None:
    gates = learn_gates(work := prepared(tmp_path), dense(work), "search").gates
    first = gates.droppable[0]
    with torch.no_grad():
        gates.logits.fill_(5.0)
        gates.logits[gates.offsets[first]] = -5.0
        gates.logits[-1] = -5.0

    kept = likely_kept(gates)

    full = work.latency.full()
    assert kept.groups == tuple(n - (index == first) for index, n in enumerate(full.groups))
    assert kept.blocks == (*full.blocks[:-1], False)


def test_one_group_of_every_space_stays_however_unlikely(tmp_path: Path) -> None:
    gates = learn_gates(work := prepared(tmp_path), dense(work), "search").gates
    with torch.no_grad():
        gates.logits.fill_(-5.0)

    assert likely_kept(gates) == work.latency.smallest()


def test_every_candidate_was_measured_within_the_budget(tmp_path: Path) -> None:
    work = prepared(tmp_path)

    run_to_budget(work, dense(work))

    assert max(tried_us(work)) <= work.budget_us


def test_the_correction_follows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut networks take a fifth longer than predicted: the choice is made again, smaller, until it fits."""
    monkeypatch.setattr(workspace, "time_networks", slow_cuts(1.2))
    work = prepared(tmp_path, max_corrections=3)

    run_to_budget(work, dense(work))

    assert 0.7 * work.budget_us <= max(tried_us(work)) <= work.budget_us


def test_the_correction_uses_what_a_pessimistic_profile_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "time_networks", slow_cuts(0.8))
    work = prepared(tmp_path, max_corrections=3)

    run_to_budget(work, dense(work))

    assert 0.9 * work.budget_us <= max(tried_us(work)) <= work.budget_us


def test_where_corrections_leap_over_the_budget_the_rest_is_filled_up_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = prepared(tmp_path)
    monkeypatch.setattr(workspace, "time_networks", leaping_cuts(work))

    run_to_budget(work, dense(work))

    assert 0.7 * work.budget_us <= max(tried_us(work)) <= work.budget_us


def test_candidates_that_all_turn_out_too_slow_are_refused_with_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "time_networks", slow_cuts(50.0))
    work = prepared(tmp_path)

    with pytest.raises(BudgetError, match="no candidate was measured within") as raised:
        run_to_budget(work, dense(work))

    assert raised.value.smallest_us > work.budget_us


def test_a_budget_just_above_the_smallest_network_is_met(tmp_path: Path) -> None:
    """The margin that is aimed below the budget must not make it unreachable after all."""
    smallest = smallest_us(prepared(tmp_path).latency)
    work = prepared(tmp_path, budget=f"{1.005 * smallest:.4f}us", max_corrections=0)

    trained, _ = run_to_budget(work, dense(work))

    assert work.predicted_us(trained.network.spec) == pytest.approx(smallest, rel=0.01)


def test_a_resumed_run_compares_the_candidates_of_the_first_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = prepared(tmp_path)
    first, _ = run_to_budget(work, dense(work))
    monkeypatch.setattr(workspace, "time_networks", slow_cuts(3.0))

    again, _ = run_to_budget(work, dense(work))

    assert again.choice == first.choice
    assert all(v.equal(first.network.state_dict()[n]) for n, v in again.network.state_dict().items())


def test_a_coefficient_above_one_is_left_in_the_weights_of_the_small_network(tmp_path: Path) -> None:
    """Kept units were twice as strong in training; without gates they must still be."""
    work = prepared(tmp_path, coefficient_high=2.0, trial_share=0.0)
    searched = learn_gates(work, dense(work), "search")
    open_gates = searched.gates.sample_of(torch.ones(searched.gates.unit_count))
    images = work.test.inputs(slice(0, 8))
    from edgekit.nn.cut import cut_network, keep_everything

    small = cut_network(searched.network, work.structure, keep_everything(work.structure), gain=2.0)

    with torch.no_grad():
        torch.testing.assert_close(small(images), searched.network(images, open_gates), rtol=1e-4, atol=1e-4)
