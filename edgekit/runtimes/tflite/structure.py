"""Whether a .tflite file is whole, for interpreters that follow its offsets unchecked, as tflite-runtime does.

Every table, vector and index that an interpreter reads first is checked. Option values (a stride of 0, say) and the
vectors of operators that edgekit does not write are not: such files belong in a process of their own.
"""

from __future__ import annotations

import struct

from edgekit.errors import BadInputError
from edgekit.runtimes.tflite.flatbuffer import Reader, check_identifier

_TABLE = "table"
_TABLES = "tables"
_RESHAPE_OPTIONS = 17

# Field numbers of the schema, each with what the field holds: a table or several of the named kind, or a vector or
# scalar with elements of so many bytes.
_FIELDS: dict[str, dict[int, tuple[str, str | int]]] = {
    "Model": {
        1: (_TABLES, "OperatorCode"),
        2: (_TABLES, "SubGraph"),
        3: ("vector", 1),
        4: (_TABLES, "Buffer"),
        5: ("vector", 4),
        6: (_TABLES, "Metadata"),
    },
    "OperatorCode": {0: ("scalar", 1), 1: ("vector", 1), 2: ("scalar", 4), 3: ("scalar", 4)},
    "SubGraph": {
        0: (_TABLES, "Tensor"),
        1: ("vector", 4),
        2: ("vector", 4),
        3: (_TABLES, "Operator"),
        4: ("vector", 1),
    },
    "Tensor": {
        0: ("vector", 4),
        1: ("scalar", 1),
        2: ("scalar", 4),
        3: ("vector", 1),
        4: (_TABLE, "Quantization"),
        5: ("scalar", 1),
        7: ("vector", 4),
    },
    "Quantization": {
        0: ("vector", 4),
        1: ("vector", 4),
        2: ("vector", 4),
        3: ("vector", 8),
        6: ("scalar", 4),
    },
    "Operator": {
        0: ("scalar", 4),
        1: ("vector", 4),
        2: ("vector", 4),
        3: ("scalar", 1),
        4: (_TABLE, "Options"),
        5: ("vector", 1),
        8: ("vector", 4),
    },
    "Options": {},
    "Buffer": {0: ("vector", 1)},
    "Metadata": {0: ("vector", 1), 1: ("scalar", 4)},
}


def check_structure(model: bytes) -> None:
    """Raise BadInputError, saying where, unless all that an interpreter follows lies within ``model``."""
    check_identifier(model)
    try:
        reader = Reader(model)
        root = reader.offset(0)
        _check_table(reader, root, "Model")
        _check_indices(reader, root)
    except (struct.error, ValueError) as error:
        raise BadInputError(f"the TFLite model is damaged: {error}") from error


def _check_table(reader: Reader, table: int, kind: str) -> None:
    reader.check_table(table)
    for number, (form, content) in _FIELDS[kind].items():
        if isinstance(content, int):
            reader.check_field(table, number, content, is_vector=form == "vector")
        elif form == _TABLES:
            for child in reader.tables(table, number):
                _check_table(reader, child, content)
        else:
            child_table = reader.table(table, number)
            if child_table is not None:
                _check_table(reader, child_table, content)
    if kind == "Operator":
        _check_reshape(reader, table)


def _check_reshape(reader: Reader, operator: int) -> None:
    options = reader.table(operator, 4)
    if options is not None and reader.byte(operator, 3) == _RESHAPE_OPTIONS:
        reader.check_field(options, 0, 4, is_vector=True)


def _check_indices(reader: Reader, root: int) -> None:
    codes, buffers = len(reader.tables(root, 1)), len(reader.tables(root, 4))
    subgraphs = reader.tables(root, 2)
    if not subgraphs or not buffers:
        raise ValueError(f"{len(subgraphs)} subgraphs and {buffers} buffers, at least 1 of each is needed")
    for subgraph in subgraphs:
        tensors, operators = reader.tables(subgraph, 0), reader.tables(subgraph, 3)
        for tensor in tensors:
            _check_below(reader.unsigned(tensor, 2), buffers, "buffer")
        for operator in operators:
            _check_below(reader.unsigned(operator, 0), codes, "operator code")
        for owner in (subgraph, *operators):
            for index in (*reader.integers(owner, 1), *reader.integers(owner, 2)):
                _check_below(index, len(tensors), "tensor", lowest=-1 if owner != subgraph else 0)


def _check_below(index: int, count: int, what: str, lowest: int = 0) -> None:
    if not lowest <= index < count:
        raise ValueError(f"{what} {index} is used, there are {count}")
