"""Reader: a step table as parquet, one column an attribute. Needs pyarrow."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.steps.table import FIELDS, SampledSteps, table_of
from roofml.util.arrays import Ints
from roofml.util.errors import InputError

MAGIC = b"PAR1"
"""First bytes of every parquet file."""


def detect(path: Path) -> bool:
    """Whether `path` is a parquet file, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix == ".parquet":
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> SampledSteps:
    """The steps in `path`. Raises InputError naming the column that is missing or does not hold counts."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{path}: reading parquet needs pyarrow: pip install 'roofml[bench]'") from None
    try:
        # One file and not a data set: a folder name like `a=1` must not become a column.
        file = parquet.ParquetFile(path)
        names: list[str] = list(file.schema_arrow.names)
        for attribute in FIELDS.values():
            if names.count(attribute) != 1:
                raise InputError(f"{path}: column {attribute} is {'there twice' if attribute in names else 'missing'}")
        table = file.read(columns=list(FIELDS.values()))
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None
    columns: dict[str, Ints] = {}
    for field, attribute in FIELDS.items():
        column = table.column(attribute)
        if not arrow.types.is_integer(column.type):
            raise InputError(f"{path}: column {attribute} has type {column.type}, expected whole numbers")
        if column.null_count:
            row = int(np.argmax(np.asarray(column.is_null())))
            raise InputError(f"{path}: row {row + 1}: {attribute} is empty")
        try:
            columns[field] = np.asarray(column.cast(arrow.int64()), np.int64)
        except arrow.ArrowException:
            raise InputError(f"{path}: column {attribute} holds a number beyond 64 bits") from None
    return table_of(str(path), columns, "row", np.arange(1, len(columns["id"]) + 1))
