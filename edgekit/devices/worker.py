"""The program that runs on a device: it carries out one job file and answers with JSON lines (docs/jobs.md); and how
models are timed, there and everywhere else in edgekit.

It is copied to the device as this one file: nothing but Python 3.9, numpy and a runtime may be needed, nothing else of
edgekit, and none of these is imported before a job asks for it. What times mean is decided on the host.

A run can be interrupted and so take longer than it needs, never shorter: a round's time of a model is therefore its
fastest run of that round. Rounds go over all models, so that what disturbs the machine disturbs all of them alike.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple, TextIO

# A slow model needs no more runs in a round than it takes to be sure of its fastest: this bounds a round's length.
_ROUND_NS = 20_000_000
_FEWEST_RUNS = 3
_QUIET = 1.05
# More than the first two levels of any core; the last level, shared by all cores, is left as it is.
_COLD_BYTES = 8 * 2**20


class Round(NamedTuple):
    """One round: for each model the fastest of its timed runs, and the sum of them."""

    fastest_ns: list[int]
    total_ns: list[int]


class Trial:
    """One loaded model, given by what runs it once; how often it ran and for how long (timed runs only)."""

    def __init__(
        self,
        invoke: Callable[[], object],
        runs_per_round: int,
        warmup_runs: int,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self._invoke = invoke
        self._clock = clock
        self.runs = 0
        self.total_ns = 0
        invoke()
        start = clock()
        invoke()
        affordable = _ROUND_NS // max(1, clock() - start)
        self.runs_per_round = max(min(runs_per_round, _FEWEST_RUNS), min(runs_per_round, affordable))
        self._warmup_runs = min(warmup_runs, max(1, affordable // 4))

    @property
    def seconds(self) -> float:
        """Time in the runs that were timed."""
        return self.total_ns / 1e9

    def run_round(self) -> tuple[int, int]:
        """The fastest and the sum of a round's runs, behind runs that fetch weights and code back into the caches."""
        invoke, clock = self._invoke, self._clock
        for _ in range(self._warmup_runs):
            invoke()
        fastest = total = 0
        for _ in range(self.runs_per_round):
            start = clock()
            invoke()
            elapsed = clock() - start
            total += elapsed
            if not fastest or elapsed < fastest:
                fastest = elapsed
        self.runs += self.runs_per_round
        self.total_ns += total
        return fastest, total


def quiet_rounds(trials: Sequence[Trial], rounds: int, repetitions: int) -> Iterator[Round]:
    """Rounds until ``rounds`` of them are quiet, or there are ``repetitions`` times as many."""
    fastest: list[list[int]] = []
    for _ in range(rounds * repetitions):
        found = _run_round(trials)
        fastest.append(found.fastest_ns)
        yield found
        if len(fastest) >= rounds and quiet_count(fastest) >= rounds:
            return


def rounds_until(trials: Sequence[Trial], min_runs: int, min_seconds: float) -> Iterator[Round]:
    """Rounds until every model ran ``min_runs`` times and for ``min_seconds``; at least one."""
    yield _run_round(trials)
    while any(trial.runs < min_runs or trial.seconds < min_seconds for trial in trials):
        yield _run_round(trials)


def cold_rounds(
    invokes: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], int] = perf_counter_ns
) -> Iterator[list[int]]:
    """Times of single runs in ns, one of each model a round, behind a walk over more memory than a core's own caches
    hold. The models have run before."""
    import numpy

    walk = numpy.zeros(_COLD_BYTES // 8)
    for _ in range(rounds):
        times = []
        for invoke in invokes:
            walk += 1.0
            start = clock()
            invoke()
            times.append(clock() - start)
        yield times


def slowness(fastest_ns: Sequence[Sequence[float]]) -> list[float]:
    """How much longer than its own fastest round the median model took, for each round of shape (rounds, models)."""
    models = range(len(fastest_ns[0]))
    smallest = [max(1, min(times[model] for times in fastest_ns)) for model in models]
    return [_median([max(1, times[model]) / smallest[model] for model in models]) for times in fastest_ns]


def quiet_count(fastest_ns: Sequence[Sequence[float]]) -> int:
    """The number of rounds in which the models together took at most 5 % longer than in the quietest."""
    found = slowness(fastest_ns)
    limit = _QUIET * min(found)
    return sum(value <= limit for value in found)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the interpreter from pausing in the middle of a run."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _run_round(trials: Sequence[Trial]) -> Round:
    found = Round([], [])
    for trial in trials:
        fastest, total = trial.run_round()
        found.fastest_ns.append(fastest)
        found.total_ns.append(total)
    return found


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


class WorkerError(Exception):
    """What an ``error`` event tells: its code, in one line why, and the model if it is about one."""

    def __init__(self, code: str, message: str, model: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.model = model


@dataclass(frozen=True)
class TimeTask:
    """Models to time beside each other; the parameters are those of `Trial`, `quiet_rounds` and `rounds_until`."""

    rounds: int = 9
    runs: int = 12
    warmup: int = 3
    repetitions: int = 3
    min_runs: int = 0
    min_seconds: float = 0.0
    cold: int = 5
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelsTask:
    """A model whose kernels are to be named."""

    model: str


@dataclass(frozen=True)
class RunTask:
    """A model to run on the samples of one file, and the file for its results."""

    model: str
    input: str
    output: str


@dataclass(frozen=True)
class StateTask:
    """The machine's state is wanted."""


@dataclass(frozen=True)
class Job:
    """A job file that was read; each task is one of the four kinds above."""

    runtime: str
    provider: str
    threads: int
    tasks: tuple[Any, ...]


_FIRST_LINE = "edgekit-job 1"
_JOB_BYTES = 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,7}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,9})?", re.ASCII)
_CHOICES = {"runtime": ("onnx", "tflite"), "provider": ("cpu", "nnapi")}
_SMALLEST = {"rounds": 1, "runs": 1, "warmup": 0, "repetitions": 1, "min_runs": 0, "cold": 0}
_MOST = 1_000_000
_MOST_SECONDS = 86_400.0
_MOST_THREADS = 1024


def read_job(path: Path) -> Job:
    """The job in a file. Raises WorkerError ``bad_job``."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_JOB_BYTES + 1)
        if len(content) > _JOB_BYTES:
            raise WorkerError("bad_job", f"the job file is larger than the {_JOB_BYTES} bytes that are allowed")
        return parse_job(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerError("bad_job", f"the job file cannot be read: {error}") from None


def parse_job(text: str) -> Job:
    """The job that a file's text describes. Raises WorkerError ``bad_job``, which names the line."""
    lines = text.split("\n")
    if lines.pop():
        raise WorkerError("bad_job", f"line {len(lines) + 1}: does not end in a newline: the file is cut off")
    parser = _JobParser()
    for number, line in enumerate(lines, start=1):
        try:
            parser.read(number, line)
        except ValueError as error:
            raise WorkerError("bad_job", f"line {number}: {error}") from None
    try:
        return parser.job()
    except ValueError as error:
        raise WorkerError("bad_job", f"line {len(lines) + 1}: {error}") from None


class _JobParser:
    """A job in the making, line by line. Everything raises ValueError."""

    def __init__(self) -> None:
        self._settings: dict[str, str] = {}
        self._tasks: list[Any] = []

    def read(self, number: int, line: str) -> None:
        if number == 1:
            if line != _FIRST_LINE:
                raise ValueError(f"is {line[:80]!r}, not {_FIRST_LINE!r}")
            return
        key, *values = line.split(" ")
        if key in ("runtime", "provider", "threads", "library"):
            self._read_setting(key, values)
        elif key == "model":
            self._add_model(values)
        elif key in ("time", "kernels", "run", "state"):
            self._finish_task()
            self._tasks.append(_read_task(key, values))
        else:
            raise ValueError(f"{key[:80]!r} is no setting and no task")

    def job(self) -> Job:
        self._finish_task()
        if "runtime" not in self._settings or not self._tasks:
            raise ValueError("the file ends without a runtime and at least one task")
        return Job(
            runtime=self._settings["runtime"],
            provider=self._settings.get("provider", "cpu"),
            threads=int(self._settings.get("threads", "1")),
            tasks=tuple(self._tasks),
        )

    def _read_setting(self, key: str, values: list[str]) -> None:
        (value,) = _exactly(1, key, values)
        if self._tasks:
            raise ValueError(f"{key!r} stands behind the first task")
        if key in self._settings:
            raise ValueError(f"{key!r} is given twice")
        if key == "threads":
            _whole(key, value, 1, _MOST_THREADS)
        elif key == "library":
            _file_name(value)
        elif value not in _CHOICES[key]:
            raise ValueError(f"{key} is {value[:80]!r}; allowed are {', '.join(_CHOICES[key])}")
        self._settings[key] = value

    def _add_model(self, values: list[str]) -> None:
        (name,) = _exactly(1, "model", values)
        if not self._tasks or not isinstance(self._tasks[-1], TimeTask):
            raise ValueError("'model' stands only behind 'time'")
        task = self._tasks[-1]
        self._tasks[-1] = replace(task, models=(*task.models, _file_name(name)))

    def _finish_task(self) -> None:
        if self._tasks and isinstance(self._tasks[-1], TimeTask) and not self._tasks[-1].models:
            raise ValueError("the task 'time' before has no model")


def _read_task(key: str, values: list[str]) -> Any:
    if key == "time":
        return _read_time_task(values)
    if key == "kernels":
        return KernelsTask(*map(_file_name, _exactly(1, key, values)))
    if key == "run":
        return RunTask(*map(_file_name, _exactly(3, key, values)))
    _exactly(0, key, values)
    return StateTask()


def _read_time_task(parameters: Sequence[str]) -> TimeTask:
    found: dict[str, Any] = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name in found:
            raise ValueError(f"{name!r} is given twice")
        if name == "min_seconds":
            found[name] = _seconds(value)
        elif name in _SMALLEST:
            found[name] = _whole(name, value, _SMALLEST[name], _MOST)
        else:
            raise ValueError(f"{name[:80]!r} is no parameter of 'time'")
    return TimeTask(**found)


def _exactly(count: int, key: str, values: list[str]) -> list[str]:
    if len(values) != count:
        raise ValueError(f"{key!r} has {len(values)} values and needs {count}")
    return values


def _file_name(value: str) -> str:
    if not _FILE_NAME.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is no file name: letters, digits and ._- only, not beginning with . or -")
    return value


def _whole(name: str, value: str, smallest: int, most: int) -> int:
    if not _WHOLE.fullmatch(value) or not smallest <= int(value) <= most:
        raise ValueError(f"{name} is {value[:80]!r}; allowed are {smallest} to {most}")
    return int(value)


def _seconds(value: str) -> float:
    if not _SECONDS.fullmatch(value) or float(value) > _MOST_SECONDS:
        raise ValueError(f"min_seconds is {value[:80]!r}; allowed are 0 to {_MOST_SECONDS:.0f}")
    return float(value)


@dataclass(frozen=True)
class Kernels:
    """What ran: names of kernels in order, and each node with the provider that took it over."""

    names: list[str]
    nodes: list[dict[str, str]]


_ONNX_PROVIDERS = {"cpu": "CPUExecutionProvider", "nnapi": "NnapiExecutionProvider"}
_ONNX_ERRORS_ONLY = 3
_KERNEL_TIME = "_kernel_time"
_NUMPY_TYPES = {"float": "float32", "double": "float64"}


class OnnxRuntime:
    """ONNX Runtime, set up as ``edgekit/runtimes/onnx/session.py`` does it (a test keeps both equal)."""

    def __init__(self, provider: str, threads: int) -> None:
        # Since 1.29 an import looks up hosts on the network unless this is set before.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        self.module = _import("onnxruntime")
        self.threads = threads
        self.version = f"onnxruntime {self.module.__version__}"
        self.available = list(self.module.get_available_providers())
        self.delegate = "" if provider == "cpu" else _ONNX_PROVIDERS[provider]
        self.is_provided = _ONNX_PROVIDERS[provider] in self.available

    def open(self, model: str, profile_prefix: str = "") -> Any:
        """An ``InferenceSession``; one that writes a profile where a prefix for its name is given."""
        options = self.module.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ONNX_ERRORS_ONLY
        options.graph_optimization_level = self.module.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Without it, CPUs that have AVX2 and no VNNI add pairs of products in 16 bits that saturate.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if self.threads > 1:
            # Workers that spin between runs take the cores of whatever else runs on the device.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if profile_prefix:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        providers = [name for name in (self.delegate, _ONNX_PROVIDERS["cpu"]) if name]
        # Its fallback would retry the same provider, and print a banner on stdout.
        return self.module.InferenceSession(model, options, providers=providers, enable_fallback=0)

    def load(self, model: str) -> OnnxSession:
        """A model file of the job, ready for everything but `OnnxSession.invoke`."""
        return OnnxSession(self, model)


class OnnxSession:
    """One ONNX model. Inputs of any number and type; those that are open in their first dimension get 1 there."""

    def __init__(self, runtime: OnnxRuntime, model: str) -> None:
        self._runtime = runtime
        self._model = model
        self._session = runtime.open(model)
        self._inputs = [(entry.name, _onnx_shape(entry), _onnx_type(entry)) for entry in self._session.get_inputs()]
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self._binding = self._session.io_binding()

    def prepare(self) -> None:
        """Put random inputs in place, and every output into a buffer of the runtime's own."""
        for name, values in self._feed().items():
            self._binding.bind_ortvalue_input(name, self._runtime.module.OrtValue.ortvalue_from_numpy(values))
        for name in self._outputs:
            self._binding.bind_output(name)

    def invoke(self) -> None:
        """Run once on the prepared inputs: exactly what is timed."""
        self._session.run_with_iobinding(self._binding)

    def run(self, samples: Any) -> Any:
        """The first output for any number of samples."""
        name, shape, _ = _single_float_input(self._inputs)
        _check_samples(samples, shape)
        return _run_in_batches(samples, shape[0], lambda batch: self._session.run([self._outputs[0]], {name: batch})[0])

    def kernels(self) -> Kernels:
        """From the profiler, in a session of its own, because profiling slows every run down."""
        with tempfile.TemporaryDirectory(dir=os.curdir) as folder:
            session = self._runtime.open(self._model, str(Path(folder, "kernels")))
            session.run(self._outputs, self._feed())
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return onnx_kernels(events)

    def _feed(self) -> dict[str, Any]:
        values = random_inputs([(shape, numpy_type) for _, shape, numpy_type in self._inputs])
        return {self._inputs[index][0]: array for index, array in enumerate(values)}


def onnx_kernels(events: Sequence[Mapping[str, Any]]) -> Kernels:
    """Operator and type of the first input of each kernel in a profile, for example ``QLinearConv[uint8]``."""
    found = Kernels([], [])
    for event in events:
        name = str(event.get("name", ""))
        if not name.endswith(_KERNEL_TIME):
            continue
        arguments = event["args"]
        operator = str(arguments["op_name"])
        types = [type_name for entry in arguments.get("input_type_shape", []) for type_name in entry]
        found.names.append(f"{operator}[{types[0]}]" if types else operator)
        provider = str(arguments.get("provider", ""))
        found.nodes.append({"name": name[: -len(_KERNEL_TIME)], "operator": operator, "provider": provider})
    return found


def _onnx_type(entry: Any) -> str:
    match = re.fullmatch(r"tensor\(((?:u?int|float)\d*|double|bool)\)", entry.type)
    if match is None:
        raise ValueError(f"the input {entry.name!r} is of type {entry.type}, which cannot be filled")
    return _NUMPY_TYPES.get(match[1], match[1])


def _onnx_shape(entry: Any) -> tuple[int, ...]:
    sizes = [1 if index == 0 and not isinstance(size, int) else size for index, size in enumerate(entry.shape)]
    return _known_shape(entry.name, sizes, entry.shape)


def _known_shape(name: str, sizes: Sequence[Any], written: Sequence[Any]) -> tuple[int, ...]:
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"the input {name!r} has the shape {list(written)}; only the first dimension may be open")
    return tuple(sizes)


_TFLITE_PACKAGES = {
    "litert": ("ai-edge-litert", "ai_edge_litert.interpreter"),
    "tflite-runtime": ("tflite-runtime", "tflite_runtime.interpreter"),
}
_PROBE_SECONDS = 60
_DELEGATE = "DELEGATE"


class TfliteRuntime:
    """LiteRT or, where it is not installed, tflite-runtime; EDGEKIT_TFLITE_BACKEND forces one of them."""

    def __init__(self, provider: str, threads: int) -> None:
        forced = os.environ.get("EDGEKIT_TFLITE_BACKEND", "")
        package, self.interpreter = _find_interpreter([forced] if forced in _TFLITE_PACKAGES else _TFLITE_PACKAGES)
        self.threads = threads
        self.version = f"{package} {_package_version(package)}"
        self.available = ["xnnpack"]
        self.delegate = ""
        self.is_provided = provider == "cpu"
        self._verifies = package == "ai-edge-litert"

    def open(self, model: str) -> Any:
        """An interpreter with its tensors allocated."""
        interpreter = self.interpreter(model_path=model, num_threads=self.threads)
        interpreter.allocate_tensors()
        return interpreter

    def load(self, model: str) -> TfliteSession:
        """A model file of the job. LiteRT verifies what it loads; tflite-runtime crashes on a damaged file, and
        therefore opens it in a child first."""
        if not self._verifies and not _survives(lambda: TfliteSession(self.open(model)).probe()):
            raise ValueError("the interpreter crashes on the model")
        return TfliteSession(self.open(model))


class TfliteSession:
    """One TFLite model in an interpreter, with its default delegate."""

    def __init__(self, interpreter: Any) -> None:
        import numpy

        self._interpreter = interpreter
        self._details = interpreter.get_input_details()
        self._inputs = [
            (
                str(entry["name"]),
                _known_shape(entry["name"], [int(size) for size in entry["shape"]], entry["shape"]),
                _tflite_type(entry["name"], numpy.dtype(entry["dtype"])),
            )
            for entry in self._details
        ]

    def prepare(self) -> None:
        """Put random inputs in place, in the model's own layout."""
        arrays = random_inputs([(shape, numpy_type) for _, shape, numpy_type in self._inputs])
        for index, array in enumerate(arrays):
            self._interpreter.set_tensor(self._details[index]["index"], array)

    def invoke(self) -> None:
        """Run once on the prepared inputs: exactly what is timed."""
        self._interpreter.invoke()

    def probe(self) -> None:
        """Everything that a damaged model may crash."""
        self.prepare()
        self.invoke()
        self.kernels()

    def run(self, samples: Any) -> Any:
        """The first output for any number of samples, channels first like them."""
        _, shape, _ = _single_float_input(self._inputs)
        if len(shape) == 4:
            shape = (shape[0], shape[3], shape[1], shape[2])
        _check_samples(samples, shape)
        return _run_in_batches(samples, shape[0], self._run_once)

    def kernels(self) -> Kernels:
        """From what the interpreter tells of its operators."""
        import numpy

        types = {
            int(tensor["index"]): numpy.dtype(tensor["dtype"]).name for tensor in self._interpreter.get_tensor_details()
        }
        return tflite_kernels(self._interpreter._get_ops_details(), types)

    def _run_once(self, batch: Any) -> Any:
        import numpy

        if batch.ndim == 4:
            batch = numpy.ascontiguousarray(batch.transpose(0, 2, 3, 1))
        self._interpreter.set_tensor(self._details[0]["index"], batch)
        self._interpreter.invoke()
        result = self._interpreter.get_tensor(self._interpreter.get_output_details()[0]["index"])
        return result.transpose(0, 3, 1, 2) if result.ndim == 4 else result


def tflite_kernels(operators: Sequence[Mapping[str, Any]], types: Mapping[int, str]) -> Kernels:
    """``xnnpack:CONV_2D[int8]`` for an operator that the delegate took over, ``builtin:...`` for one that it left.

    A delegate appends one operator for each part of the graph that it took over, and leaves the operators of that part
    in the list: these are the ones between the inputs and the outputs of the appended one.
    """
    found = Kernels([], [])
    delegated = _delegated(operators)
    for index, operator in enumerate(operators):
        name = str(operator["op_name"])
        if name == _DELEGATE:
            continue
        provider = "xnnpack" if index in delegated else "builtin"
        outputs = [int(tensor) for tensor in operator["outputs"]]
        found.names.append(f"{provider}:{name}[{types[outputs[0]]}]" if outputs else f"{provider}:{name}")
        found.nodes.append({"name": str(index), "operator": name, "provider": provider})
    return found


def _delegated(operators: Sequence[Mapping[str, Any]]) -> set[int]:
    producers = {
        int(tensor): index
        for index, operator in enumerate(operators)
        if operator["op_name"] != _DELEGATE
        for tensor in operator["outputs"]
    }
    delegated: set[int] = set()
    for part in operators:
        if part["op_name"] == _DELEGATE:
            delegated |= _between(part, operators, producers)
    return delegated


def _between(part: Mapping[str, Any], operators: Sequence[Mapping[str, Any]], producers: Mapping[int, int]) -> set[int]:
    found: set[int] = set()
    inputs = {int(tensor) for tensor in part["inputs"]}
    pending = [int(tensor) for tensor in part["outputs"]]
    while pending:
        tensor = pending.pop()
        index = producers.get(tensor)
        if tensor in inputs or index is None or index in found:
            continue
        found.add(index)
        pending.extend(int(tensor) for tensor in operators[index]["inputs"])
    return found


def _tflite_type(name: str, numpy_type: Any) -> str:
    if numpy_type.kind not in "biuf":
        raise ValueError(f"the input {name!r} is of type {numpy_type.name}, which cannot be filled")
    return str(numpy_type.name)


def _find_interpreter(backends: Any) -> tuple[str, Any]:
    missing = WorkerError("no_runtime", "no TFLite runtime")
    for backend in backends:
        package, module = _TFLITE_PACKAGES[backend]
        try:
            interpreter = _import(module).Interpreter
        except WorkerError as error:
            missing = error
            continue
        if package == "tflite-runtime":
            _check_numpy_for_tflite_runtime()
        return package, interpreter
    raise missing


def _check_numpy_for_tflite_runtime() -> None:
    import numpy

    # It can be imported under numpy 2, and fails in every call that takes an array.
    if int(numpy.__version__.split(".")[0]) > 1:
        raise WorkerError("no_runtime", f"tflite-runtime needs numpy 1, not {numpy.__version__}: use ai-edge-litert")


def _package_version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _import(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    # A runtime that is there and broken raises what it likes.
    except Exception as error:
        raise WorkerError("no_runtime", f"{module} cannot be imported: {_first_line(error)}") from None


def _survives(action: Callable[[], None]) -> bool:
    """Whether a child that does it ends by itself, and not by a signal; an exception is for the parent to meet."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(_PROBE_SECONDS)
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return not os.WIFSIGNALED(status)


def random_inputs(inputs: Sequence[tuple[tuple[int, ...], str]]) -> list[Any]:
    """Arrays for inputs of shape and type: normal numbers, 8-bit integers of any value, 0 or 1 for all others, which
    may be indices. Always the same; the first is what ``edgekit.profile.frame.random_input`` makes."""
    import numpy

    random = numpy.random.default_rng(0)
    arrays = []
    for shape, type_name in inputs:
        numpy_type = numpy.dtype(type_name)
        values: Any
        if type_name == "float32":
            values = random.standard_normal(shape, dtype=numpy.float32)
        elif numpy_type.kind == "f":
            values = random.standard_normal(shape)
        elif numpy_type.kind == "b" or numpy_type.itemsize > 1:
            values = random.integers(0, 2, shape)
        else:
            limits = numpy.iinfo(numpy_type)
            values = random.integers(limits.min, limits.max + 1, shape)
        arrays.append(numpy.asarray(values, dtype=numpy_type))
    return arrays


def _single_float_input(inputs: Sequence[tuple[str, tuple[int, ...], str]]) -> tuple[str, tuple[int, ...], str]:
    if len(inputs) != 1 or inputs[0][2] != "float32" or not inputs[0][1]:
        found = ", ".join(f"{name}: {numpy_type}" for name, _, numpy_type in inputs)
        raise ValueError(f"only a model with one input of type float32 can be run on samples, not ({found})")
    return inputs[0]


def _check_samples(samples: Any, shape: tuple[int, ...]) -> None:
    if samples.dtype.name != "float32" or samples.ndim != len(shape) or samples.shape[1:] != shape[1:]:
        raise ValueError(
            f"the model takes float32 samples of shape {shape[1:]}, the file holds {samples.dtype} of {samples.shape}"
        )
    if len(samples) == 0:
        raise ValueError("there are no samples to run")


def _run_in_batches(samples: Any, batch_size: int, run_once: Callable[[Any], Any]) -> Any:
    """Results of ``run_once`` on slices of ``batch_size`` samples; the last slice is filled up, and its result cut."""
    import numpy

    results = []
    for start in range(0, len(samples), batch_size):
        batch = numpy.ascontiguousarray(samples[start : start + batch_size])
        missing = batch_size - len(batch)
        if missing:
            batch = numpy.concatenate([batch, numpy.repeat(batch[-1:], missing, axis=0)])
        results.append(numpy.array(run_once(batch)[: batch_size - missing], dtype=numpy.float32))
    return numpy.concatenate(results)


_COMMAND_SECONDS = 5.0
# Sensors that are absent or asleep report nonsense: only what silicon survives is believed.
_CELSIUS_RANGE = (-50.0, 150.0)


def read_state(root: Path = Path("/")) -> dict[str, Any]:
    """The machine's state as a ``state`` event holds it; what cannot be read is "unknown", 0.0 or None."""
    # First of all: the clock falls as soon as nothing is computed.
    frequency_mhz, max_frequency_mhz, governor = _read_clock(root)
    return {
        "governor": governor,
        "frequency_mhz": frequency_mhz,
        "max_frequency_mhz": max_frequency_mhz,
        "temperature_celsius": _hottest_celsius(root),
        "throttled": _answer(["vcgencmd", "get_throttled"], r"throttled=(0x[0-9a-fA-F]{1,8})"),
        "thermal_status": _thermal_status(),
        "load_1min": _load(_text(root / "proc/loadavg")),
        "boot_id": read_boot_id(root),
        "monotonic_ns": time.monotonic_ns(),
    }


def read_boot_id(root: Path = Path("/")) -> str:
    """What changes with every start of the machine."""
    return _text(root / "proc/sys/kernel/random/boot_id") or "unknown"


def _read_clock(root: Path) -> tuple[float, float, str]:
    """Frequency now and highest, in MHz, and governor: of the core that can run the fastest."""
    folders = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"), key=lambda path: int(path.parent.name[3:]))
    if not folders:
        match = re.search(r"^cpu MHz\s*:\s*(\d{1,6}(?:\.\d+)?)\s*$", _text(root / "proc/cpuinfo"), re.MULTILINE)
        return (float(match[1]) if match else 0.0), 0.0, "unknown"
    fastest = max(folders, key=lambda folder: _megahertz(folder / "cpuinfo_max_freq"))
    return (
        _megahertz(fastest / "scaling_cur_freq"),
        _megahertz(fastest / "scaling_max_freq"),
        _text(fastest / "scaling_governor") or "unknown",
    )


def _megahertz(path: Path) -> float:
    kilohertz = _text(path)
    return int(kilohertz) / 1e3 if re.fullmatch(r"[0-9]{1,9}", kilohertz) else 0.0


def _hottest_celsius(root: Path) -> float | None:
    texts = [_text(path) for path in root.glob("sys/class/thermal/thermal_zone*/temp")]
    degrees = [int(text) / 1e3 for text in texts if re.fullmatch(r"-?[0-9]{1,9}", text)]
    return max((value for value in degrees if _CELSIUS_RANGE[0] < value < _CELSIUS_RANGE[1]), default=None)


def _thermal_status() -> int | None:
    status = _answer(["dumpsys", "thermalservice"], r"Thermal Status: ([0-9]{1,3})")
    return None if status is None else int(status)


def _load(text: str) -> float:
    match = re.match(r"[0-9]{1,6}(?:\.[0-9]+)?", text)
    return float(match[0]) if match else 0.0


def _answer(argv: Sequence[str], pattern: str) -> str | None:
    """What the pattern finds in a program's output; None where there is no such program, or none in time."""
    program = shutil.which(argv[0])
    if program is None:
        return None
    try:
        completed = subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(pattern, completed.stdout.decode("utf-8", "replace"))
    return match[1] if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


class Worker:
    """Carries out a job's tasks one after the other, and tells of each in events."""

    def __init__(self, job: Job, emit: Callable[[Mapping[str, Any]], None]) -> None:
        self._job = job
        self._emit = emit
        self._runtime: Any = None
        self._error_count = 0

    def work(self) -> int:
        """The exit code: 0, or 1 if there was an error."""
        try:
            self._start()
        except WorkerError as error:
            self._tell_error(None, error)
        else:
            for index, task in enumerate(self._job.tasks):
                self._carry_out(index, task)
        self._emit({"event": "done"})
        return 1 if self._error_count else 0

    def _start(self) -> None:
        kind = OnnxRuntime if self._job.runtime == "onnx" else TfliteRuntime
        try:
            self._runtime = kind(self._job.provider, self._job.threads)
        finally:
            self._emit(self._hello())
        if not self._runtime.is_provided:
            raise WorkerError(
                "no_provider",
                f"{self._runtime.version} has no provider {self._job.provider}; it has "
                f"{', '.join(self._runtime.available)}",
            )

    def _hello(self) -> dict[str, Any]:
        return {
            "event": "hello",
            "worker": "python",
            "version": 1,
            "runtime": self._job.runtime,
            "runtime_version": self._runtime.version if self._runtime else "",
            "providers": self._runtime.available if self._runtime else [],
            "boot_id": read_boot_id(),
            "architecture": os.uname().machine,
            "pid": os.getpid(),
        }

    def _carry_out(self, index: int, task: Any) -> None:
        carry_out: dict[type[Any], Callable[[int, Any], None]] = {
            TimeTask: self._time,
            KernelsTask: self._name_kernels,
            RunTask: self._run,
            StateTask: self._tell_state,
        }
        try:
            carry_out[type(task)](index, task)
        except WorkerError as error:
            self._tell_error(index, error)

    def _time(self, index: int, task: TimeTask) -> None:
        sessions = [self._load(model) for model in task.models]
        self._tell_state()
        trials = []
        for model, session in zip(task.models, sessions):  # noqa: B905 - Python 3.9 has no strict
            with _failing_as("run_failed", model):
                session.prepare()
                trials.append(Trial(session.invoke, task.runs, task.warmup))
        runs_per_round = [trial.runs_per_round for trial in trials]
        self._emit({"event": "begin", "task": index, "models": list(task.models), "runs_per_round": runs_per_round})
        with _failing_as("run_failed"), no_garbage_collection():
            for found in _rounds(trials, task):
                self._emit({"event": "round", "task": index, **found._asdict()})
            for times_ns in cold_rounds([session.invoke for session in sessions], task.cold):
                self._emit({"event": "cold", "task": index, "ns": times_ns})
        self._emit({"event": "end", "task": index})
        self._tell_state()

    def _name_kernels(self, index: int, task: KernelsTask) -> None:
        session = self._load(task.model)
        with _failing_as("run_failed", task.model):
            found = session.kernels()
        self._emit(
            {"event": "kernels", "task": index, "model": task.model, "kernels": found.names, "nodes": found.nodes}
        )
        delegate = self._runtime.delegate
        if delegate and not any(node["provider"] == delegate for node in found.nodes):
            raise WorkerError("not_delegated", f"{delegate} took over none of the model's nodes", task.model)

    def _run(self, index: int, task: RunTask) -> None:
        session = self._load(task.model)
        with _failing_as("run_failed", task.model):
            results = session.run(_read_array(task.input))
            _write_array(task.output, results)
        self._emit(
            {"event": "output", "task": index, "model": task.model, "file": task.output, "samples": len(results)}
        )

    def _tell_state(self, *_: object) -> None:
        self._emit({"event": "state", **read_state()})

    def _load(self, model: str) -> Any:
        with _failing_as("load_failed", model):
            return self._runtime.load(model)

    def _tell_error(self, index: int | None, error: WorkerError) -> None:
        self._error_count += 1
        event = {"event": "error", "task": index, "code": error.code, "model": error.model, "message": error.message}
        self._emit(event)


def _rounds(trials: Sequence[Trial], task: TimeTask) -> Iterator[Round]:
    if task.min_runs or task.min_seconds:
        return rounds_until(trials, task.min_runs, task.min_seconds)
    return quiet_rounds(trials, task.rounds, task.repetitions)


@contextmanager
def _failing_as(code: str, model: str | None = None) -> Iterator[None]:
    """Make one kind of error of everything that a runtime or a file raises."""
    try:
        yield
    except WorkerError:
        raise
    except Exception as error:
        raise WorkerError(code, _first_line(error), model) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]


def _read_array(name: str) -> Any:
    import numpy

    array = numpy.load(name, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, numpy.ndarray):
        raise ValueError(f"{name} is no .npy file of one array")
    return array


def _write_array(name: str, array: Any) -> None:
    import numpy

    partial = f".{name}.partial"
    with open(partial, "wb") as stream:
        numpy.save(stream, array, allow_pickle=False)
    os.replace(partial, name)


def main(arguments: Sequence[str]) -> int:
    """Carry out the job file that is named; the exit code."""
    stream = _own_stdout()

    def emit(event: Mapping[str, Any]) -> None:
        stream.write(json.dumps(event, allow_nan=False) + "\n")
        stream.flush()

    try:
        if len(arguments) != 1:
            raise WorkerError("bad_job", "give one argument: the job file")
        job = read_job(Path(arguments[0]))
    except WorkerError as error:
        emit({"event": "error", "task": None, "code": error.code, "model": None, "message": error.message})
        return 2
    return Worker(job, emit).work()


def _own_stdout() -> TextIO:
    """Stdout for events alone: what runtimes write there comes out on stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    return stream


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
