"""Reader: a step table as parquet, one column an attribute."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.limits import MOST_REQUESTS
from roofml.traces.steps.table import FIELDS, SampledSteps, table_of
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, first_bytes, is_file, open_file

MAGIC = b"PAR1"
"""First bytes of every parquet file."""


def detect(path: Path) -> bool:
    """Whether `path` is a parquet file, by its name or its first bytes."""
    if path.suffix == ".parquet" and is_file(path):
        return True
    return first_bytes(path, len(MAGIC)) == MAGIC


def read(path: Path) -> SampledSteps:
    """The steps in `path`. Raises InputError naming the column that is missing or does not hold counts."""
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
        try:
            # One file and not a data set: a folder name like `a=1` must not become a column.
            table_file = parquet.ParquetFile(file)
            _check_columns(path, table_file, arrow)
            table = table_file.read(columns=list(FIELDS.values()))
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as parquet: {for_line(str(error))[:200]}") from None
    columns = _columns(path, table, arrow)
    return table_of(str(path), columns, "row", np.arange(1, len(columns["id"]) + 1))


def _check_columns(path: Path, file: Any, arrow: Any) -> None:
    """Before anything is unpacked: a small file can hold a column of any length."""
    rows: int = file.metadata.num_rows
    if rows > MOST_REQUESTS:
        raise InputError(f"{path}: {rows} rows, expected at most {MOST_REQUESTS}")
    schema = file.schema_arrow
    names: list[str] = list(schema.names)
    for attribute in FIELDS.values():
        if names.count(attribute) != 1:
            raise InputError(f"{path}: column {attribute} is {'there twice' if attribute in names else 'missing'}")
        kind = schema.field(attribute).type
        if not arrow.types.is_integer(kind):
            raise InputError(f"{path}: column {attribute} has type {str(kind)[:60]}, expected whole numbers")


def _columns(path: Path, table: Any, arrow: Any) -> dict[str, Ints]:
    columns: dict[str, Ints] = {}
    for field, attribute in FIELDS.items():
        column = table.column(attribute)
        if column.null_count:
            row = int(np.argmax(np.asarray(column.is_null())))
            raise InputError(f"{path}: row {row + 1}: {attribute} is empty")
        try:
            columns[field] = np.asarray(column.cast(arrow.int64()), np.int64)
        except arrow.ArrowException:
            raise InputError(f"{path}: column {attribute} holds a number beyond 64 bits") from None
    return columns
