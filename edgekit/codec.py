"""The only place that decodes and encodes edgekit's files: bounds, schema versions, and what types alone cannot say.

Whatever was read here is valid, and the stages trust it; nothing here measures, computes or prints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit.errors import BadInputError
from edgekit.files import locked, read_bounded, write_atomic
from edgekit.types import (
    INPUT,
    Layer,
    ModelInfo,
    NetworkSpec,
    Preprocessing,
    Profile,
    RunResult,
    Shape,
    Target,
    Timing,
    UnitSpec,
    UnitTiming,
)

FILE_LIMIT_BYTES = 256 * 2**20
"""No file of structs is larger: anything beyond is refused before it is read whole."""
TEXT_LIMIT_BYTES = 16 * 2**20
ELEMENT_LIMIT = 2**31
"""Most elements of a tensor and most parameters of a unit: a few bytes of JSON must not ask for terabytes."""

_ACTIVATED = ("conv", "dense", "scale", "add", "activation")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_JSON_PATH = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)

T = TypeVar("T", bound=msgspec.Struct)
Merge = Callable[[Profile, Profile, str], Profile]


def read_profile(path: Path) -> Profile:
    """A profile file. Raises BadInputError naming the file, the JSON path and what is allowed."""
    return _read(path, Profile, check_profile, f"delete {path}: its times are measured again")


def write_profile(path: Path, profile: Profile, merge: Merge | None = None) -> Profile:
    """Merge ``profile`` into the file at ``path`` (made if absent) and return what the file holds now.

    ``merge`` makes one profile of that in the file, the new one, and the file's name; `merge_profiles` if not given.
    Two processes may do this at the same time. Raises BadInputError when the file holds times of another target,
    runtime, version or machine.
    """
    with locked(path):
        merged = (merge or merge_profiles)(read_profile(path), profile, str(path)) if path.exists() else profile
        replace_profile(path, merged)
    return merged


def replace_profile(path: Path, profile: Profile) -> None:
    """Write ``profile`` as the whole file, whatever was there."""
    check_profile(profile, "the profile")
    head = _indented(msgspec.structs.replace(profile, units=()))
    lines = b",\n    ".join(msgspec.json.encode(timing) for timing in profile.units)
    # One unit a line keeps a file of a thousand units readable, and its differences too.
    data = head.replace(b'"units": []', b'"units": [\n    ' + lines + b"\n  ]", 1) if lines else head
    _decode(data, Profile, str(path))
    write_atomic(path, data)


def merge_profiles(old: Profile, new: Profile, where: str = "the profile") -> Profile:
    """Both profiles' units in one, with everything else of ``new``; equal units and corrections are taken from ``new``.

    What tainted ``old`` stays only while any of its units does. Raises BadInputError naming the first difference when
    the two were not measured on one target and runtime.
    """
    check_same_source(old, new, where)
    units = {timing.unit: timing for timing in (*old.units, *new.units)}
    corrections = {correction.key: correction for correction in (*old.corrections, *new.corrections)}
    is_any_left = len(units) > len(new.units)
    return msgspec.structs.replace(
        new,
        units=tuple(units.values()),
        corrections=tuple(corrections.values()),
        tainted=tuple(dict.fromkeys((*(old.tainted if is_any_left else ()), *new.tainted))),
    )


def check_same_source(old: Profile, new: Profile, where: str = "the profile") -> None:
    """Raise BadInputError unless both hold times of one target, runtime version, thread count and processor."""
    for difference in source_differences(old, new):
        raise BadInputError(
            f"{where}: {difference}; times of the two must not be mixed",
            "write to another file, or to none: then the one for this device and version is found or made",
        )


def source_differences(old: Profile, new: Profile) -> tuple[str, ...]:
    """What tells the sources of two profiles apart, in words; nothing when their times may be mixed."""
    return tuple(
        f"{name} is {before!r} there and {now!r} here"
        for (name, before), now in zip(_source(old).items(), _source(new).values(), strict=True)
        if before != now
    )


def _source(profile: Profile) -> dict[str, str | int]:
    return {
        "target": profile.target,
        "runtime": profile.runtime,
        "runtime_version": profile.runtime_version,
        "threads": profile.threads,
        "machine.cpu": profile.machine.cpu,
        "machine.architecture": profile.machine.architecture,
    }


def read_network(path: Path) -> NetworkSpec:
    """A network file. Raises BadInputError naming the file, the JSON path or layer, and what is allowed."""
    return _read(path, NetworkSpec, check_network)


def read_result(path: Path) -> RunResult:
    """The ``result.json`` of a run. Raises BadInputError naming the file, the JSON path and what is allowed."""
    way_out = f"edgekit train --resume --name {path.parent.name}"
    return _read(path, RunResult, check_result, f"delete it, then {way_out}: it is written again, nothing is trained")


def write_result(path: Path, result: RunResult) -> None:
    """Write a run's result after checking it."""
    check_result(result, "the result")
    _write(path, result)


def read_target(path: Path) -> Target:
    """A target file (TOML). Raises BadInputError naming the file, the key and what is allowed."""
    data = read_bounded(path, TEXT_LIMIT_BYTES)
    try:
        target = msgspec.toml.decode(data, type=Target)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_input(error, str(path), "TOML") from error
    check_target(target, str(path))
    return target


def encode_model_info(info: ModelInfo) -> str:
    """The JSON text that an exported model carries about itself."""
    check_model_info(info, "the model's metadata")
    return msgspec.json.encode(info).decode()


def decode_model_info(text: str, where: str = "the model's metadata") -> ModelInfo:
    """What an exported model says about itself. Raises BadInputError naming the JSON path and what is allowed."""
    data = text.encode(errors="surrogatepass")
    if len(data) > TEXT_LIMIT_BYTES:
        raise BadInputError(f"{where}: larger than the {TEXT_LIMIT_BYTES} bytes that are allowed")
    info = _decode(data, ModelInfo, where)
    check_model_info(info, where)
    return info


def _read(path: Path, struct: type[T], check: Callable[[T, str], None], hint: str | None = None) -> T:
    """``hint``: the way out of a damaged file, where the error has none of its own."""
    data = read_bounded(path, FILE_LIMIT_BYTES)
    try:
        value = _decode(data, struct, str(path))
        check(value, str(path))
    except BadInputError as error:
        error.hint = error.hint or hint
        raise
    return value


def _write(path: Path, value: msgspec.Struct) -> None:
    data = _indented(value)
    # NaN and infinity are encoded as null, which only a reader would notice: read it before it is written.
    _decode(data, type(value), str(path))
    write_atomic(path, data)


def _indented(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _decode(data: bytes, struct: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(data, type=struct)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_input(error, where, "JSON") from error


def _bad_input(error: Exception, where: str, language: str) -> BadInputError:
    if not isinstance(error, msgspec.ValidationError):
        return BadInputError(f"{where}: is no valid {language}: {error}")
    match = _JSON_PATH.match(str(error))
    reason, path = (match["reason"], match["path"] or "$") if match else (str(error), "$")
    if path == "$.schema":
        hint = "update edgekit, or write the file again with this version"
        return BadInputError(f"{where}: $.schema: this edgekit reads schema version 1 only ({reason})", hint)
    if path == "$.corrections" and "object" in reason:
        hint = "delete the key 'corrections' from the file: its times stay good, and corrections are fitted again"
        return BadInputError(
            f"{where}: $.corrections: one for each number format, not for each network: {reason}", hint
        )
    return BadInputError(f"{where}: {path}: {reason}")


def check_profile(profile: Profile, where: str) -> None:
    """Raise BadInputError for a unit listed twice, an impossible unit, or times out of order."""
    seen: dict[UnitSpec, int] = {}
    for index, timing in enumerate(profile.units):
        at = f"{where}: $.units[{index}]"
        check_unit(timing.unit, f"{at}.unit")
        _check_unit_timing(timing, at)
        if seen.setdefault(timing.unit, index) != index:
            raise BadInputError(f"{at}: the same unit as $.units[{seen[timing.unit]}]; each may be listed once")
    _check_corrections(profile, where)


def _check_corrections(profile: Profile, where: str) -> None:
    seen: dict[object, int] = {}
    for index, correction in enumerate(profile.corrections):
        if seen.setdefault(correction.key, index) != index:
            raise BadInputError(
                f"{where}: $.corrections[{index}]: of the same network, group sizes and number format as "
                f"$.corrections[{seen[correction.key]}]; each may be listed once"
            )


def _check_unit_timing(timing: UnitTiming, at: str) -> None:
    _check_timing(timing.framed, f"{at}.framed")
    _check_timing(timing.frame, f"{at}.frame")
    if timing.cold is not None:
        _check_timing(timing.cold, f"{at}.cold")


def _check_timing(timing: Timing, at: str) -> None:
    if not timing.min_us <= timing.p10_us <= timing.median_us <= timing.p90_us:
        raise BadInputError(
            f"{at}: min_us {timing.min_us:g}, p10_us {timing.p10_us:g}, median_us {timing.median_us:g}, "
            f"p90_us {timing.p90_us:g} must not fall in this order"
        )


def check_target(target: Target, where: str) -> None:
    """Raise BadInputError for a target that cannot be used: bad name, no runtime, a transport without an address."""
    if not _NAME.fullmatch(target.name):
        raise BadInputError(f"{where}: name: {target.name!r} may only hold letters, digits, '.', '_' and '-'")
    if not target.runtimes:
        raise BadInputError(f"{where}: runtimes: at least one of onnx, tflite is needed")
    if target.transport == "ssh" and not target.address:
        raise BadInputError(f"{where}: address: must be given for the transport {target.transport!r}")
    for runtime, options in target.runtimes.items():
        if not options.formats:
            raise BadInputError(f"{where}: runtimes.{runtime}.formats: at least one of fp32, int8 is needed")


def check_model_info(info: ModelInfo, where: str) -> None:
    """Raise BadInputError when labels are missing, or preprocessing and its channels disagree."""
    if not info.labels:
        raise BadInputError(f"{where}: $.labels: at least one label is needed")
    _check_preprocessing(info.preprocessing, f"{where}: $.preprocessing")


def _check_preprocessing(preprocessing: Preprocessing, at: str) -> None:
    channels = preprocessing.input_shape[0] if preprocessing.input_shape else 0
    if not channels:
        raise BadInputError(f"{at}.input_shape: at least one dimension is needed")
    for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) != channels:
            raise BadInputError(f"{at}.{name}: {len(values)} values for {channels} channels; one for each is needed")
    _check_bounded({f"mean[{i}]": value for i, value in enumerate(preprocessing.mean)}, at, smallest=-1e6)


def check_result(result: RunResult, where: str) -> None:
    """Raise BadInputError for numbers out of bounds, or two points of the same name."""
    _check_bounded({"epochs": result.epochs, "seconds": result.seconds}, f"{where}: $")
    seen: set[str] = set()
    for index, point in enumerate(result.points):
        at = f"{where}: $.points[{index}]"
        if point.name in seen:
            raise BadInputError(f"{at}.name: {point.name!r} is the name of an earlier point; names must differ")
        seen.add(point.name)
        if point.penalty_weight is not None:
            _check_bounded({"penalty_weight": point.penalty_weight}, at)


def _check_bounded(values: Mapping[str, float], at: str, smallest: float = 0.0, largest: float = 1e12) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and smallest <= value <= largest):
            raise BadInputError(f"{at}.{name}: {value!r} must lie between {smallest:g} and {largest:g}")


def check_network(network: NetworkSpec, where: str = "the network") -> None:
    """Raise BadInputError naming the layer unless the network can be computed.

    Names are unique, every input exists before it is read, connected shapes agree, each unit is possible by itself.
    """
    if not network.layers:
        raise BadInputError(f"{where}: $.layers: a network needs at least one layer")
    _check_sizes([network.input_shape], 0, f"{where}: $.input_shape")
    shapes: dict[str, Shape] = {INPUT: network.input_shape}
    for index, layer in enumerate(network.layers):
        at = f"{where}: $.layers[{index}] ({layer.name!r})"
        if not layer.name or layer.name in shapes:
            taken = "is empty" if not layer.name else "is taken"
            raise BadInputError(f"{at}: its name {taken}; layers need different names, and none may be {INPUT!r}")
        check_unit(layer.unit, at)
        _check_inputs(layer, shapes, at)
        shapes[layer.name] = layer.unit.output_shape


def _check_inputs(layer: Layer, shapes: Mapping[str, Shape], at: str) -> None:
    wanted = 2 if layer.unit.kind == "add" else 1
    if len(layer.inputs) != wanted:
        raise BadInputError(f"{at}: {layer.unit.kind} reads {wanted} layers, here {len(layer.inputs)}")
    for name in layer.inputs:
        if name not in shapes:
            raise BadInputError(f"{at}: reads {name!r}, which is no earlier layer and not {INPUT!r}")
        if shapes[name] != layer.unit.input_shape:
            raise BadInputError(
                f"{at}: takes shape {layer.unit.input_shape}, but {name!r} gives {shapes[name]}; they must agree"
            )


def check_unit(unit: UnitSpec, at: str) -> None:
    """Raise BadInputError unless the unit's shapes follow from its kind, kernel, stride, padding and groups."""
    _check_sizes([unit.input_shape, unit.output_shape], unit.parameter_count if _has_ranks(unit) else 0, at)
    expected = _expected_output(unit, at)
    if unit.output_shape not in expected:
        raise BadInputError(
            f"{at}: {unit.kind} of {unit.input_shape} gives {' or '.join(map(str, expected))}, not {unit.output_shape}"
        )
    if unit.activation != "none" and unit.kind not in _ACTIVATED:
        raise BadInputError(f"{at}: {unit.kind} carries no activation, give {unit.activation!r} a layer of its own")
    if (unit.sparsity_kind == "dense") != (unit.sparsity_level == 0):
        raise BadInputError(f"{at}: sparsity_kind {unit.sparsity_kind!r} with level {unit.sparsity_level:g}")


def _has_ranks(unit: UnitSpec) -> bool:
    rank = 3 if unit.kind == "conv" else 1
    return len(unit.input_shape) >= rank and len(unit.output_shape) >= rank


def _check_sizes(shapes: Iterable[Shape], parameter_count: int, at: str) -> None:
    for shape in shapes:
        if len(shape) not in (1, 3):
            raise BadInputError(f"{at}: shape {shape} must be (features,) or (channels, height, width)")
        if math.prod(shape) > ELEMENT_LIMIT:
            raise BadInputError(f"{at}: shape {shape} has more than {ELEMENT_LIMIT} elements")
    if parameter_count > ELEMENT_LIMIT:
        raise BadInputError(f"{at}: {parameter_count} parameters, at most {ELEMENT_LIMIT} are allowed")


def _expected_output(unit: UnitSpec, at: str) -> list[Shape]:
    """Output shapes that are possible for the unit's input."""
    if unit.kind == "conv":
        _check_groups(unit, at)
        return [_spatial_output(unit, unit.output_shape[0], at)]
    if unit.kind in ("max_pool", "average_pool"):
        return [_spatial_output(unit, unit.input_shape[0], at)]
    if unit.kind == "dense":
        _check_rank(unit.input_shape, 1, unit, at)
        return [unit.output_shape[:1]]
    if unit.kind == "global_average_pool":
        _check_rank(unit.input_shape, 3, unit, at)
        return [unit.input_shape[:1]]
    if unit.kind == "flatten":
        return [(math.prod(unit.input_shape),)]
    return [unit.input_shape]


def _check_groups(unit: UnitSpec, at: str) -> None:
    channels = (unit.input_shape[0], unit.output_shape[0])
    if any(count % unit.groups for count in channels):
        raise BadInputError(f"{at}: {unit.groups} groups must divide both {channels[0]} and {channels[1]} channels")


def _check_rank(shape: Shape, rank: int, unit: UnitSpec, at: str) -> None:
    if len(shape) != rank:
        wanted = "(channels, height, width)" if rank == 3 else "(features,)"
        raise BadInputError(f"{at}: {unit.kind} takes {wanted}, not {shape}")


def _spatial_output(unit: UnitSpec, channels: int, at: str) -> Shape:
    _check_rank(unit.input_shape, 3, unit, at)
    top, left, bottom, right = unit.padding
    padded = (unit.input_shape[1] + top + bottom, unit.input_shape[2] + left + right)
    spans = [dilation * (kernel - 1) + 1 for kernel, dilation in zip(unit.kernel, unit.dilation, strict=True)]
    if any(span > size for span, size in zip(spans, padded, strict=True)):
        raise BadInputError(f"{at}: kernel {unit.kernel} with its dilation is larger than the padded input {padded}")
    height, width = ((s - k) // stride + 1 for s, k, stride in zip(padded, spans, unit.stride, strict=True))
    return (channels, height, width)
