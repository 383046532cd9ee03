"""Runs ``torch.export`` on a user's module and turns what can go wrong there into errors that say what to do.

The meaning of the exported operators is not known here.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edgekit.errors import UnsupportedModelError
from edgekit.nn.modules import eval_mode
from edgekit.nn.trace._graph import operator_name
from edgekit.nn.trace._user_code import at_user_line
from edgekit.types import Shape

BATCH = 2
"""Batch size of the example. 1 would make ``squeeze`` drop the batch, and hide views that mix samples."""

_FRESH = frozenset(("conv2d", "linear", "batch_norm", "add", "relu", "hardtanh", "max_pool2d", "avg_pool2d"))
"""Operators whose result has memory of its own, whatever the shapes."""


_DROPOUTS = frozenset(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"))


def export(module: nn.Module, input_shape: Shape) -> ExportedProgram:
    """The module in eval mode as a graph of aten operators, free of in-place operators that change what others read.

    Raises UnsupportedModelError if forward does not take exactly one tensor, fails, or branches on values.
    """
    _check_inputs(module)
    example = _example(module, input_shape)
    with eval_mode(module), _quiet():
        try:
            program = torch.export.export(module, (example,), strict=False)
        except Exception as error:
            raise _export_error(module, example, error) from error
        return _without_side_effects(program) if _has_side_effects(program.graph) else program


def _check_inputs(module: nn.Module) -> None:
    parameters = inspect.signature(module.forward).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or not parameters:
        raise UnsupportedModelError(
            f"forward takes {len(required)} inputs ({', '.join(required)}); edgekit supports one tensor",
            "wrap the model in a module whose forward takes the one tensor and supplies the rest",
        )


def _example(module: nn.Module, input_shape: Shape) -> Tensor:
    parameter = next(module.parameters(), torch.empty(0))
    return torch.zeros(BATCH, *input_shape, dtype=parameter.dtype, device=parameter.device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export prints the graph so far when it fails, logs advice meant for authors of compilers, and warns about
    its own deprecations."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _export_error(module: nn.Module, example: Tensor, error: Exception) -> UnsupportedModelError:
    shape = tuple(example.shape)
    if isinstance(error, GuardOnDataDependentSymNode):
        return UnsupportedModelError(
            f"forward branches on the values of a tensor{at_user_line(error)}: a network on a device runs the same "
            "operators for every input",
            "decide by shapes, or by attributes set in __init__, instead of tensor values",
        )
    failure = _eager_failure(module, example)
    if failure is not None:
        return UnsupportedModelError(
            f"the model does not run on an input of shape {shape}{at_user_line(failure)}: {_first_line(failure)}",
            "check the input shape (here with a batch of 2), and that the model works in eval mode",
        )
    return UnsupportedModelError(
        f"torch.export cannot trace the model on an input of shape {shape}{at_user_line(error)}: {_first_line(error)}",
        "forward must compute with torch operators on tensors: no numpy, no .item(), no compiled parts",
    )


def _eager_failure(module: nn.Module, example: Tensor) -> Exception | None:
    try:
        with torch.no_grad():
            module(example)
    except Exception as error:
        return error
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _has_side_effects(graph: fx.Graph) -> bool:
    """Whether an in-place operator may change a tensor that something else reads.

    ``relu_(conv2d(x))`` and ``add_(batch_norm(y), x)`` do not, if nobody else reads the first argument: that is how
    nearly all models use them.
    """
    return any(_is_in_place(node) and not _is_private(node.args[0]) for node in graph.nodes)


def _without_side_effects(program: ExportedProgram) -> ExportedProgram:
    """The same program with every in-place operator replaced; this takes longer than the export itself."""
    for node in list(program.graph.nodes):
        # Dropout that is off returns its very input, which torch's own replacement takes for a copy.
        if operator_name(node) in _DROPOUTS and not node.args[2]:
            node.replace_all_uses_with(node.args[0])
            program.graph_signature.replace_all_uses(node.name, node.args[0].name)
            program.graph.erase_node(node)
    # An empty table decomposes nothing.
    functional: ExportedProgram = program.run_decompositions({})
    return functional


def _is_private(value: object) -> bool:
    """Whether one node alone reads a tensor and, unless it has memory of its own, that of which it may be a view."""
    if not isinstance(value, fx.Node) or len(value.users) != 1:
        return False
    return (
        value.op == "placeholder" or operator_name(value) in _FRESH or (bool(value.args) and _is_private(value.args[0]))
    )


def _is_in_place(node: fx.Node) -> bool:
    return operator_name(node).endswith("_")
