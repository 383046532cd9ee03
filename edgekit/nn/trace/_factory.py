"""Finds the user's own model: ``package.module:factory`` or ``path/to/file.py:factory``.

This runs the user's code, and is the only place that does before tracing; it must only be given names from the user.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from edgekit.errors import BadInputError, UsageError
from edgekit.nn.trace._user_code import at_user_line


def load_factory(reference: str) -> nn.Module:
    """The module that a factory makes (a function or class without arguments), or a module object found by that name.

    As with other tools, the working directory, or the folder of the file, goes on ``sys.path``. Raises UsageError for
    a reference to nothing, BadInputError if the user's code fails or gives no ``torch.nn.Module``.
    """
    source, separator, attribute = reference.rpartition(":")
    if not (separator and source and attribute):
        raise UsageError(
            f"the model {reference!r} names no factory",
            "write package.module:factory, or path/to/file.py:factory",
        )
    code = _load_file(Path(source)) if source.endswith(".py") else _import_module(source)
    found = _attribute(code, attribute, reference)
    made = found if isinstance(found, nn.Module) else _call(found, reference)
    if not isinstance(made, nn.Module):
        raise BadInputError(
            f"{reference!r} gave {type(made).__name__!r}, which is no torch.nn.Module",
            "name a function or class that returns the model",
        )
    return made


def _import_module(name: str) -> ModuleType:
    _put_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A missing import inside the user's module has another name, and is another mistake.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(
                f"there is no Python module {name!r}",
                "run edgekit in the folder that holds it, install it, or write path/to/file.py:factory",
            ) from error
        raise _import_error(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_error(name, error) from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", "check the path before the colon")
    _put_on_path(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} cannot be imported", "name a Python source file")
    code = importlib.util.module_from_spec(spec)
    # Dataclasses and type hints of the user's code look their module up there.
    previous = sys.modules.get(path.stem)
    sys.modules[path.stem] = code
    try:
        spec.loader.exec_module(code)
    except (Exception, SystemExit) as error:
        _restore_module(path.stem, previous)
        raise _import_error(str(path), error) from error
    return code


def _restore_module(name: str, previous: ModuleType | None) -> None:
    if previous is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = previous


def _put_on_path(folder: Path) -> None:
    if os.fspath(folder) not in sys.path:
        sys.path.insert(0, os.fspath(folder))


def _import_error(name: str, error: BaseException) -> BadInputError:
    hint = "install what it imports" if isinstance(error, ImportError) else "it must import without side effects"
    return BadInputError(f"importing {name!r} failed{at_user_line(error)}: {type(error).__name__}: {error}", hint)


def _attribute(code: ModuleType, attribute: str, reference: str) -> object:
    found = getattr(code, attribute, None)
    if found is None:
        names = [name for name, value in vars(code).items() if callable(value) and not name.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=3, cutoff=0.5) or sorted(names)[:5]
        raise UsageError(
            f"{reference!r}: the module has no {attribute!r}",
            f"it has {', '.join(near)}" if near else "it defines no function or class",
        )
    return found


def _call(factory: object, reference: str) -> object:
    if not callable(factory):
        raise BadInputError(f"{reference!r} is {type(factory).__name__!r}, not a function or class", "name a factory")
    make: Callable[[], object] = factory
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise BadInputError(
            f"the factory {reference!r} failed{at_user_line(error)}: {type(error).__name__}: {error}",
            "it is called without arguments and must return the model",
        ) from error
