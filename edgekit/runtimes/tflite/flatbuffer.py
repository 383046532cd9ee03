"""Reading a .tflite file without the schema's package: every offset is checked before it is followed.

What is read is the metadata, and nothing that could be executed; models are run by ``session``.
"""

from __future__ import annotations

import json
import struct

from edgekit.errors import BadInputError
from edgekit.runtimes.tflite.graph import FILE_IDENTIFIER, METADATA_NAME

_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0
_SMALLEST_FILE = 16


def check_identifier(model: bytes) -> None:
    """Raise BadInputError unless ``model`` starts as a TFLite file does."""
    if len(model) < _SMALLEST_FILE or model[4:8] != FILE_IDENTIFIER:
        raise BadInputError(
            f"this is no TFLite model: bytes 4 to 8 are {model[4:8]!r}, {FILE_IDENTIFIER!r} is wanted ({len(model)} bytes)"
        )


def read_metadata(model: bytes) -> dict[str, str]:
    """The text metadata that the writer stored; empty if there is none. Raises BadInputError if ``model`` is no model."""
    check_identifier(model)
    try:
        data = _find_metadata(_Reader(model))
        if data is None:
            return {}
        values = json.loads(data)
    except (struct.error, ValueError) as error:
        raise BadInputError(f"the TFLite model is damaged: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise BadInputError(f"the metadata {METADATA_NAME!r} of the TFLite model is no object of strings")
    return values


def _find_metadata(reader: _Reader) -> bytes | None:
    root = reader.offset(0)
    for entry in reader.tables(root, _MODEL_METADATA):
        if reader.bytes(entry, _METADATA_NAME) == METADATA_NAME.encode():
            buffers = reader.tables(root, _MODEL_BUFFERS)
            index = reader.unsigned(entry, _METADATA_BUFFER)
            if index >= len(buffers):
                raise ValueError(f"metadata in buffer {index} of {len(buffers)}")
            return reader.bytes(buffers[index], _BUFFER_DATA)
    return None


class _Reader:
    """Fields of flatbuffer tables, which are referred to by position; ValueError or struct.error beyond the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def offset(self, position: int) -> int:
        """Where the unsigned offset at ``position`` leads."""
        return position + self._read("<I", position)

    def unsigned(self, table: int, field: int) -> int:
        """An unsigned 32-bit field, 0 if it is absent."""
        position = self._field(table, field)
        return 0 if position is None else self._read("<I", position)

    def bytes(self, table: int, field: int) -> bytes:
        """A vector of bytes, empty if it is absent."""
        position = self._field(table, field)
        if position is None:
            return b""
        start = self.offset(position)
        end = start + 4 + self._read("<I", start)
        if end > len(self._data):
            raise ValueError(f"a vector ends at byte {end} of {len(self._data)}")
        return self._data[start + 4 : end]

    def tables(self, table: int, field: int) -> list[int]:
        """A vector of tables, empty if it is absent."""
        position = self._field(table, field)
        if position is None:
            return []
        start = self.offset(position)
        count = self._read("<I", start)
        if start + 4 + 4 * count > len(self._data):
            raise ValueError(f"a vector of {count} tables at byte {start} of {len(self._data)}")
        return [self.offset(start + 4 + 4 * index) for index in range(count)]

    def _field(self, table: int, field: int) -> int | None:
        layout = table - self._read("<i", table)
        size = self._read("<H", layout)
        entry = 4 + 2 * field
        distance = self._read("<H", layout + entry) if entry + 2 <= size else 0
        return table + distance if distance else None

    def _read(self, code: str, position: int) -> int:
        if position < 0:
            raise ValueError(f"an offset leads to byte {position}")
        value: int = struct.unpack_from(code, self._data, position)[0]
        return value
