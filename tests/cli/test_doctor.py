"""``edgekit doctor``: every runtime is made to run, and a machine where none does is told from one where one does."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit import doctor, runtimes
from edgekit.errors import MissingExtraError
from edgekit.runtimes import FloatArray, Runtime, Session
from tests.cli.conftest import Invoke


def state_of(name: str, envelope: dict[str, Any]) -> str:
    return next(str(check["state"]) for check in envelope["data"]["checks"] if check["name"] == name)


def test_the_runtime_of_the_base_install_runs_a_model(invoke: Invoke) -> None:
    outcome = invoke("doctor", "--json")

    assert outcome.exit_code == 0
    assert state_of("runtime onnx", outcome.envelope) == "ok"


def test_telemetry_is_off(invoke: Invoke) -> None:
    assert state_of("telemetry", invoke("doctor", "--json").envelope) == "ok"


def test_telemetry_that_a_user_switched_on_is_shown(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")

    assert state_of("telemetry", invoke("doctor", "--json").envelope) == "failed"


def test_that_there_are_no_native_kernels_is_said(invoke: Invoke) -> None:
    assert state_of("native library", invoke("doctor", "--json").envelope) == "absent"


def test_a_machine_without_any_runtime_exits_with_1(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    def missing(name: str) -> Runtime:
        raise MissingExtraError(name, "tflite")

    monkeypatch.setattr(runtimes, "get", missing)

    outcome = invoke("doctor", "--json")

    assert (outcome.exit_code, outcome.envelope["errors"][0]["code"]) == (1, "no_runtime")
    assert outcome.envelope["data"]["can_run"] is False


def test_a_runtime_that_breaks_in_its_own_way_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> Runtime:
        raise ImportError("built for another numpy")

    monkeypatch.setattr(runtimes, "get", broken)

    check = doctor.check_runtime("tflite")

    assert (check.state, check.detail) == ("failed", "ImportError: built for another numpy")


def test_a_runtime_that_computes_wrong_values_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = runtimes.get("onnx")
    session_class = type(onnx.load(onnx.write(doctor.probe_network())))
    run = session_class.run

    def doubled(session: Session, batch: FloatArray) -> FloatArray:
        return run(session, batch) * 2

    monkeypatch.setattr(session_class, "run", doubled)

    check = doctor.check_runtime("onnx")

    assert (check.state, "computed 18 where 9 is right" in check.detail) == ("failed", True)


def test_doctor_tells_people_the_same_in_a_table(invoke: Invoke) -> None:
    lines = invoke("doctor").stdout.splitlines()

    assert lines[0].split() == ["what", "state", "detail"]
    assert any(line.startswith("runtime onnx") for line in lines)
