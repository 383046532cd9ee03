"""``edgekit target check``, ``trust`` and ``setup``: what is said where a device is not as it should be, and that no
name or address in a target file is ever more than a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from edgekit.devices.local import FOLDER_VARIABLE
from tests.cli.conftest import Invoke, Outcome
from tests.devices.conformance import wait_until
from tests.devices.sshd import MISSING, PROGRAM, Sshd, free_port, running_sshd
from tests.devices.test_adb import own_adb
from tests.devices.test_posix import programs_of

# Phones of several workers would share this machine's processes, and end each other's jobs of the same name.
pytestmark = pytest.mark.xdist_group("phone")

HOSTILE = {
    "substitution": "$(touch canary)",
    "backticks": "`touch canary`",
    "semicolon": "; touch canary",
    "pipe": "| touch canary",
    "background": "& touch canary",
    "and": "x && touch canary",
    "newline": "x\ntouch canary",
    "single quote": "'; touch canary; '",
    "double quote": '"; touch canary; "',
    "redirection": "> canary",
    "an option": "-oProxyCommand=touch canary",
    "an option of adb": "-s x shell touch canary",
    "a variable": "${IFS}touch${IFS}canary",
    "a path": "../../canary",
    "a user that is a command": "$(touch canary)@127.0.0.1:1",
}


@pytest.fixture(autouse=True)
def home(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own home, device folder and adb server, in an empty project."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "device"))
    with own_adb(tmp_path / "home") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "home").mkdir()
        yield tmp_path / "home"


@pytest.fixture
def server(home: Path) -> Iterator[Sshd]:
    if PROGRAM is None:
        pytest.skip(MISSING)
    with running_sshd(home / "server") as running:
        (home / ".ssh").mkdir()
        (home / ".ssh/config").write_text(f"Host *\n  IdentityFile {running.client_key}\n  IdentitiesOnly yes\n")
        yield running


def describe(transport: str, address: str = "", name: str = "box") -> None:
    """The target file of ``box``, whatever it says inside."""
    Path("targets").mkdir(exist_ok=True)
    text = f'name = {json.dumps(name)}\ndescription = ""\ntransport = "{transport}"\naddress = {json.dumps(address)}\n'
    Path("targets/box.toml").write_text(text + "[runtimes.onnx]\n")


def told(outcome: Outcome) -> dict[str, object]:
    """Exit code and envelope, without what is another one in every run."""
    text = re.sub(r"(127\.0\.0\.1\]?(?:'?, |:))\d+", r"\1PORT", outcome.stdout)
    text = re.sub(r'"port": \d+', '"port": 0', text).replace(str(Path.cwd()), "PROJECT")
    text = re.sub(r"SHA256:[A-Za-z0-9+/]+", "SHA256:FINGERPRINT", text)
    return {"exit code": outcome.exit_code, "envelope": json.loads(text)}


@pytest.mark.parametrize("command", ["check", "trust", "setup"])
@pytest.mark.parametrize("transport", ["ssh", "adb"])
def test_a_device_that_is_not_there(command: str, transport: str, invoke: Invoke, snapshot: SnapshotAssertion) -> None:
    describe(transport, f"127.0.0.1:{free_port()}")

    assert told(invoke("target", command, "box", "--json")) == snapshot


@pytest.mark.parametrize("command", ["check", "trust", "setup"])
def test_a_target_that_is_not_known(command: str, invoke: Invoke, snapshot: SnapshotAssertion) -> None:
    describe("local")

    assert told(invoke("target", command, "bix", "--json")) == snapshot


@pytest.mark.parametrize("command", ["check", "setup"])
def test_a_host_that_nobody_trusted(command: str, server: Sshd, invoke: Invoke, snapshot: SnapshotAssertion) -> None:
    describe("ssh", f"127.0.0.1:{server.port}")

    assert told(invoke("target", command, "box", "--json")) == snapshot


def test_a_host_that_is_trusted_now(server: Sshd, invoke: Invoke, snapshot: SnapshotAssertion) -> None:
    describe("ssh", f"127.0.0.1:{server.port}")

    first = invoke("target", "trust", "box", "--json")

    assert told(first) == snapshot
    assert first.envelope["data"]["keys"][0]["fingerprint"] == server.fingerprint
    assert invoke("target", "trust", "box", "--json").envelope["data"]["keys"][0]["accepted"] is False


def test_a_host_whose_key_changed(server: Sshd, invoke: Invoke, snapshot: SnapshotAssertion) -> None:
    describe("ssh", f"127.0.0.1:{server.port}")
    invoke("target", "trust", "box")
    server.stop()
    server.new_host_key()
    server.start()

    assert told(invoke("target", "check", "box", "--json")) == snapshot(name="check")
    assert told(invoke("target", "trust", "box", "--json")) == snapshot(name="trust")
    assert invoke("target", "trust", "box", "--replace").exit_code == 0


def test_this_machine_has_no_key_to_trust(invoke: Invoke, snapshot: SnapshotAssertion) -> None:
    describe("local")

    assert told(invoke("target", "trust", "box", "--json")) == snapshot


def test_a_device_without_python_cannot_be_set_up(
    invoke: Invoke, snapshot: SnapshotAssertion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe("local")
    monkeypatch.setenv("PATH", str(programs_of(tmp_path / "bin", "dash", None)))

    assert told(invoke("target", "setup", "box", "--json")) == snapshot


def test_a_runtime_that_does_not_run_is_exit_code_4_and_has_its_row(invoke: Invoke, server: Sshd) -> None:
    describe("ssh", f"127.0.0.1:{server.port}")
    invoke("target", "trust", "box")
    (server.home / ".cache/edgekit/device/files").mkdir(parents=True)
    (server.home / ".cache/edgekit/device/files/installation.json").write_text('{"argv": ["/usr/bin/false"]}')

    found = invoke("target", "check", "box", "--json")

    assert (found.exit_code, found.envelope["status"]) == (4, "error")
    assert "exit code 1" in found.envelope["errors"][0]["message"]
    assert found.envelope["data"]["check"]["runtimes"][0]["version"] == ""


def test_a_check_for_people_says_what_runs(invoke: Invoke) -> None:
    describe("local")

    found = invoke("target", "check", "box")

    assert found.exit_code == 0
    assert re.search(r"^onnx +cpu +onnxruntime \S+ +\d+\.\d", found.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", ["check", "trust", "setup", "show"])
@pytest.mark.parametrize("name", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_name_of_a_target_is_bad_input_and_runs_nothing(command: str, name: str, invoke: Invoke) -> None:
    describe("ssh", "127.0.0.1:1", name=name)

    found = invoke("target", command, "box", "--json")

    (problem,) = found.envelope["errors"]
    assert (found.exit_code, problem["code"]) == (3, "bad_input")
    assert "targets/box.toml: name: " in problem["message"]
    assert_nothing_ran()


@pytest.mark.parametrize("command", ["check", "trust", "setup"])
@pytest.mark.parametrize("transport", ["ssh", "adb"])
@pytest.mark.parametrize("address", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_address_is_refused_and_runs_nothing(
    command: str, transport: str, address: str, invoke: Invoke
) -> None:
    describe(transport, address)

    found = invoke("target", command, "box", "--json")

    (problem,) = found.envelope["errors"]
    assert (found.exit_code, problem["code"]) in ((2, "usage"), (4, "device"), (4, "link_lost")), problem
    assert problem["message"] and "Traceback" not in found.stderr
    assert_nothing_ran()


@pytest.mark.parametrize("address", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_name_given_on_the_command_line_runs_nothing(address: str, invoke: Invoke) -> None:
    describe("local")

    found = invoke("target", "check", "--json", "--", address)

    assert found.exit_code == 2
    assert_nothing_ran()


def assert_nothing_ran() -> None:
    """The current folder and home are those of the test: a command that ran would have left its file there."""
    assert not wait_until(lambda: bool(list(Path.cwd().rglob("canary*"))), 0.05)
