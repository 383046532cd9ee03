"""How the drop method decides: by scale for uniform widths, below the budget, for the best trial; and who teaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.nn.latency import KeptCounts
from edgekit.nn.network import Network, clone
from edgekit.pipeline import drop_run
from edgekit.pipeline.drop_run import Dense, learn_gates, run_sweep, run_to_budget
from edgekit.pipeline.run_directory import RunDirectory
from edgekit.pipeline.workspace import Workspace, prepare
from edgekit.train.loop import Recipe
from edgekit.train.pricing import choice_from_counts
from edgekit.train.selection import Candidate
from edgekit.types import ignore_progress
from tests.pipeline import runs

pytestmark = pytest.mark.usefixtures("steady_clock")

Stage = tuple[str, Recipe, Network | None]


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    settings = runs.settings(tmp_path, epochs=1.0, batch_size=64, penalty_sweep=(0.5,), distillation=0.3)
    return prepare(settings, RunDirectory(tmp_path / "run"), ignore_progress)


@pytest.fixture
def dense(work: Workspace) -> Dense:
    return Dense(work.initial, clone(work.initial))


def without_training(monkeypatch: pytest.MonkeyPatch, accuracy: Callable[[str], float] = lambda _: 0.5) -> list[Stage]:
    """Every stage leaves its network as it is and reaches ``accuracy``; what was asked of each is noted."""
    stages: list[Stage] = []

    def stand_still(
        self: Workspace, stage: str, network: Network, recipe: Recipe, teacher: Network | None = None, gates: Any = None
    ) -> dict[str, Any]:
        stages.append((stage, recipe, teacher))
        return {"accuracy": accuracy(stage)}

    monkeypatch.setattr(Workspace, "train_stage", stand_still)
    return stages


def noted_candidates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, list[Candidate]]]:
    """The budget in microseconds and the outcome of every choice of candidates."""
    noted: list[tuple[float, list[Candidate]]] = []
    choose = drop_run.candidates

    def noting(model: Any, values: Any, budget_us: float, magnitudes: Any) -> list[Candidate]:
        noted.append((budget_us, choose(model, values, budget_us, magnitudes)))
        return noted[-1][1]

    monkeypatch.setattr(drop_run, "candidates", noting)
    return noted


def store_candidates(work: Workspace, **kept: KeptCounts) -> None:
    """As if these had been measured within the budget, and the run were resumed."""
    order = [list(range(space.group_count)) for space in work.structure.spaces]
    tried = []
    for name, counts in kept.items():
        choice = choice_from_counts(work.structure, counts, order)
        tried.append(
            {
                "name": name,
                "groups": counts.groups,
                "blocks": counts.blocks,
                "channels": choice.channels,
                "dropped": sorted(choice.dropped),
                "predicted_us": 1.0,
                "measured_us": 1.0,
                "dense_us": 2.0,
            }
        )
    work.run.finish("candidates", {"tried": tried})


def test_a_uniform_candidate_keeps_the_groups_of_the_largest_scale(
    work: Workspace, dense: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_training(monkeypatch)
    searched = learn_gates(work, dense, "search")
    for space in work.structure.spaces:
        for writer in space.writers:
            norm = searched.network.layer_modules[writer].batch_norm
            if norm is not None:
                with torch.no_grad():
                    norm.weight.copy_(torch.arange(space.size) + 1.0)
    monkeypatch.setattr(drop_run, "learn_gates", lambda *_: searched)
    noted = noted_candidates(monkeypatch)

    run_to_budget(work, dense)

    (uniform,) = (candidate for candidate in noted[0][1] if candidate.name == "uniform")
    spaces = [(s, kept) for s, kept in zip(work.structure.spaces, uniform.choice.channels, strict=True)]
    narrowed = [(space.size, kept) for space, kept in spaces if len(kept) < space.size]
    assert narrowed and all(kept == tuple(range(size - len(kept), size)) for size, kept in narrowed)


def test_what_is_aimed_at_leaves_a_margin_below_the_budget(
    work: Workspace, dense: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_training(monkeypatch)
    noted = noted_candidates(monkeypatch)

    run_to_budget(work, dense)

    assert 0.9 * work.budget_us < noted[0][0] <= 0.985 * work.budget_us


@pytest.mark.parametrize("best", ["narrow", "wide"])
def test_the_candidate_of_the_most_accurate_trial_goes_on(
    work: Workspace, dense: Dense, monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    kept = {"narrow": work.latency.smallest(), "wide": work.latency.full()}
    store_candidates(work, **kept)
    without_training(monkeypatch, lambda stage: 0.9 if stage == f"trial-{best}" else 0.2)

    trained, _ = run_to_budget(work, dense)

    order = [list(range(space.group_count)) for space in work.structure.spaces]
    assert trained.choice == choice_from_counts(work.structure, kept[best], order)


def test_search_trials_and_fine_tuning_learn_from_the_dense_network(
    work: Workspace, dense: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_candidates(work, narrow=work.latency.smallest(), wide=work.latency.full())
    stages = without_training(monkeypatch)

    run_to_budget(work, dense)

    assert [stage for stage, _, _ in stages] == ["search", "trial-narrow", "trial-wide", "fine-tune"]
    assert [recipe.distillation for _, recipe, _ in stages] == [0.3] * 4
    assert all(teacher is dense.final for _, _, teacher in stages)


def test_the_models_of_a_sweep_learn_from_the_dense_network(
    work: Workspace, dense: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = without_training(monkeypatch)

    run_sweep(work, dense)

    assert [stage for stage, _, _ in stages] == ["sweep0-search", "sweep0-fine-tune"]
    assert [recipe.distillation for _, recipe, _ in stages] == [0.3] * 2
    assert all(teacher is dense.final for _, _, teacher in stages)
