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
            f"this is no TFLite model: of its {len(model)} bytes, 4 to 8 are {model[4:8]!r} and not {FILE_IDENTIFIER!r}"
        )


def read_metadata(model: bytes) -> dict[str, str]:
    """The text metadata that the writer stored, empty if there is none. Raises BadInputError for what is no model."""
    check_identifier(model)
    try:
        data = _find_metadata(Reader(model))
        if data is None:
            return {}
        values = json.loads(data)
    except (struct.error, ValueError) as error:
        raise BadInputError(f"the TFLite model is damaged: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise BadInputError(f"the metadata {METADATA_NAME!r} of the TFLite model is no object of strings")
    return values


def _find_metadata(reader: Reader) -> bytes | None:
    root = reader.offset(0)
    for entry in reader.tables(root, _MODEL_METADATA):
        if reader.bytes(entry, _METADATA_NAME) == METADATA_NAME.encode():
            buffers = reader.tables(root, _MODEL_BUFFERS)
            index = reader.unsigned(entry, _METADATA_BUFFER)
            if index >= len(buffers):
                raise ValueError(f"metadata in buffer {index} of {len(buffers)}")
            return reader.bytes(buffers[index], _BUFFER_DATA)
    return None


class Reader:
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

    def byte(self, table: int, field: int) -> int:
        """An unsigned 8-bit field, 0 if it is absent."""
        position = self._field(table, field)
        return 0 if position is None else self._read("<B", position)

    def bytes(self, table: int, field: int) -> bytes:
        """A vector of bytes, empty if it is absent."""
        start, count = self._vector(table, field, 1)
        return self._data[start : start + count]

    def integers(self, table: int, field: int) -> tuple[int, ...]:
        """A vector of signed 32-bit integers, empty if it is absent."""
        start, count = self._vector(table, field, 4)
        return struct.unpack_from(f"<{count}i", self._data, start)

    def table(self, table: int, field: int) -> int | None:
        """A table, None if it is absent."""
        position = self._field(table, field)
        return None if position is None else self.offset(position)

    def tables(self, table: int, field: int) -> list[int]:
        """A vector of tables, empty if it is absent."""
        start, count = self._vector(table, field, 4)
        return [self.offset(start + 4 * index) for index in range(count)]

    def check_table(self, table: int) -> None:
        """Raise ValueError unless the table and its list of fields lie within the data."""
        layout = self._layout(table)
        layout_size, table_size = self._read("<H", layout), self._read("<H", layout + 2)
        if layout_size < 4 or layout + layout_size > len(self._data) or table + table_size > len(self._data):
            raise ValueError(f"a table at byte {table} reaches beyond byte {len(self._data)}")

    def check_field(self, table: int, field: int, size_bytes: int, is_vector: bool) -> None:
        """Raise ValueError unless a scalar field, or a vector with elements of ``size_bytes``, lies within the data."""
        if is_vector:
            self._vector(table, field, size_bytes)
            return
        position = self._field(table, field)
        if position is not None and position + size_bytes > len(self._data):
            raise ValueError(f"a field ends at byte {position + size_bytes} of {len(self._data)}")

    def _vector(self, table: int, field: int, size_bytes: int) -> tuple[int, int]:
        """Where the elements of a vector start, and their number."""
        position = self._field(table, field)
        if position is None:
            return 0, 0
        start = self.offset(position)
        count = self._read("<I", start)
        if start + 4 + size_bytes * count > len(self._data):
            raise ValueError(f"a vector of {count} elements at byte {start} reaches beyond byte {len(self._data)}")
        return start + 4, count

    def _layout(self, table: int) -> int:
        return table - self._read("<i", table)

    def _field(self, table: int, field: int) -> int | None:
        layout = self._layout(table)
        entry = 4 + 2 * field
        distance = self._read("<H", layout + entry) if entry + 2 <= self._read("<H", layout) else 0
        return table + distance if distance else None

    def _read(self, code: str, position: int) -> int:
        if position < 0:
            raise ValueError(f"an offset leads to byte {position}")
        value: int = struct.unpack_from(code, self._data, position)[0]
        return value
