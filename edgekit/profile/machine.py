"""Facts of the machine that edgekit runs on, read beside every measurement.

Only read, never changed: no governor is set and no process is stopped here. What cannot be read is left at "unknown".
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from edgekit.profile import taint
from edgekit.types import Machine

_CPU_NAMES = ("model name", "Model", "Hardware", "cpu model", "Processor", "isa")
_ROOT = Path("/")
# Sensors that are absent or asleep report nonsense: only what silicon survives is believed.
_CELSIUS_RANGE = (-50.0, 150.0)


def read_machine(root: Path = _ROOT) -> Machine:
    """What /proc and /sys below ``root`` say about processor, clock, temperature and load."""
    cpu_info = _text(root / "proc/cpuinfo")
    return Machine(
        cpu=_cpu_name(cpu_info),
        cores=_core_count(cpu_info),
        architecture=platform.machine() or "unknown",
        kernel=_text(root / "proc/sys/kernel/osrelease") or platform.release() or "unknown",
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        frequency_mhz=_frequency_mhz(root, cpu_info),
        temperature_celsius=_temperature_celsius(root / "sys/class/thermal"),
        load_1min=_load(_text(root / "proc/loadavg")),
    )


def taints(machine: Machine) -> tuple[str, ...]:
    """Reasons, in words, why times taken on this machine now may not be repeatable; none when it looks calm."""
    return (
        *taint.of_load(machine.load_1min, machine.cores),
        *taint.of_governor(machine.governor),
        *taint.of_temperature(machine.temperature_celsius),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _cpu_name(cpu_info: str) -> str:
    fields = dict(re.findall(r"^([^:\n]+?)\s*:\s*(.+)$", cpu_info, re.MULTILINE))
    return next((fields[name].strip() for name in _CPU_NAMES if name in fields), platform.processor() or "unknown")


def _core_count(cpu_info: str) -> int:
    """Cores that this process may use, which a container can have fewer of than the machine."""
    listed = len(re.findall(r"^processor\s*:", cpu_info, re.MULTILINE))
    return min(listed or 2**31, len(os.sched_getaffinity(0)))


def _frequency_mhz(root: Path, cpu_info: str) -> float:
    kilohertz = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if re.fullmatch(r"[0-9]{1,9}", kilohertz):
        return int(kilohertz) / 1e3
    match = re.search(r"^cpu MHz\s*:\s*(\d{1,6}(?:\.\d+)?)\s*$", cpu_info, re.MULTILINE)
    return float(match[1]) if match else 0.0


def _temperature_celsius(folder: Path) -> float | None:
    """The hottest zone: the one that throttling will follow."""
    texts = [_text(zone / "temp") for zone in sorted(folder.glob("thermal_zone*"))]
    degrees = [int(text) / 1e3 for text in texts if re.fullmatch(r"-?\d{1,9}", text)]
    return max((value for value in degrees if _CELSIUS_RANGE[0] < value < _CELSIUS_RANGE[1]), default=None)


def _load(text: str) -> float:
    match = re.match(r"\d{1,6}(?:\.\d+)?", text)
    return float(match[0]) if match else 0.0
