"""Strict schemas of the package's own YAML files, and the one line that says what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from roofml.util.errors import InputError

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """A section of a file: no key that is not known, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)


def validated(schema: type[Model], document: Mapping[str, Any], path: Path) -> Model:
    """The document as `schema` has it. Raises InputError naming file and field."""
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {field}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def check_version(document: Mapping[str, Any], expected: str, path: Path) -> None:
    """Raise InputError where the file says another schema than `expected`, and where that is a newer one, so."""
    found = document.get("schema")
    if found == expected:
        return
    name, _, version = expected.rpartition("/")
    said, _, theirs = str(found).rpartition("/")
    if said == name and theirs.isdigit() and int(theirs) > int(version):
        raise InputError(f"{path}: schema: {found} is newer than this roofml, which reads {expected}: upgrade roofml")
    raise InputError(f"{path}: schema: {found!r}, expected {expected}")
