"""Facts are read from /proc and /sys as they are on PCs and boards, and nonsense there is not believed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgekit.profile.machine import read_machine, taints
from tests.profile.networks import MACHINE

_PC = (
    "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\ncpu MHz\t\t: 2995.124\n\n"
    "processor\t: 1\nmodel name\t: Some CPU @ 3 GHz\n"
)
_PI = "processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"


def _root(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("cpu_info", "name"), [(_PC, "Some CPU @ 3 GHz"), (_PI, "Raspberry Pi 4 Model B Rev 1.4")], ids=["pc", "pi"]
)
def test_the_processor_is_named_as_its_kernel_names_it(tmp_path: Path, cpu_info: str, name: str) -> None:
    assert read_machine(_root(tmp_path, {"proc/cpuinfo": cpu_info})).cpu == name


def test_clock_governor_load_and_the_hottest_zone_are_read(tmp_path: Path) -> None:
    root = _root(
        tmp_path,
        {
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
            "sys/class/thermal/thermal_zone0/temp": "41000\n",
            "sys/class/thermal/thermal_zone1/temp": "62500\n",
            "proc/loadavg": "0.25 0.10 0.05 1/100 999\n",
        },
    )

    machine = read_machine(root)

    assert (machine.governor, machine.frequency_mhz, machine.temperature_celsius, machine.load_1min) == (
        "ondemand",
        1500.0,
        62.5,
        0.25,
    )


def test_the_clock_of_a_pc_without_cpufreq_is_in_its_cpuinfo(tmp_path: Path) -> None:
    assert read_machine(_root(tmp_path, {"proc/cpuinfo": _PC})).frequency_mhz == pytest.approx(2995.124)


def test_impossible_temperatures_and_texts_are_not_believed(tmp_path: Path) -> None:
    root = _root(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": "-274000\n",
            "sys/class/thermal/thermal_zone1/temp": "hot\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "<unknown>\n",
            "proc/loadavg": "",
        },
    )

    machine = read_machine(root)

    assert (machine.temperature_celsius, machine.frequency_mhz, machine.load_1min) == (None, 0.0, 0.0)


def test_this_machine_can_be_read_and_stored() -> None:
    machine = read_machine()

    assert machine.cores >= 1
    assert msgspec.json.decode(msgspec.json.encode(machine), type=type(machine)) == machine


def test_a_calm_machine_taints_nothing() -> None:
    assert taints(MACHINE) == ()


@pytest.mark.parametrize(
    ("field", "value"), [("load_1min", 3.0), ("governor", "powersave"), ("temperature_celsius", 84.0)]
)
def test_what_makes_times_unrepeatable_is_said(field: str, value: float | str) -> None:
    (reason,) = taints(msgspec.structs.replace(MACHINE, **{field: value}))

    assert field.split("_")[0] in reason
