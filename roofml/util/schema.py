"""Strict schemas of the package's own YAML files, and the one line that says what is wrong with one.

Nothing is converted: a number in quotes, a boolean or a word is no number. The types here say what a field may hold;
what several fields must be together is checked by who owns the schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from roofml.util.errors import InputError
from roofml.util.names import LONGEST_NAME, is_name, shown
from roofml.util.outside_text import for_line

LARGEST = 1e18
"""No number of ours is larger, in any unit: their products and squares stay finite."""
MOST = 1_000_000_000
"""No count of ours is larger."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _name(text: str) -> str:
    if not is_name(text):
        raise PydanticCustomError(
            "name", "expected one line of printable characters, at most {longest}", {"longest": LONGEST_NAME}
        )
    return text


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise PydanticCustomError("sha256", "expected 64 hexadecimal digits")
    return text


def _sha256_or_nothing(text: str) -> str:
    return text and _sha256(text)


def _finite(value: object) -> object:
    """Refuse here what is not finite or so large a whole number that pydantic's own comparison would end in another
    error."""
    if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise PydanticCustomError("finite", "expected a finite number, up to 1e18")
    return value


Finite = Annotated[float, BeforeValidator(_finite)]
Count = Annotated[int, Field(ge=0, le=MOST)]
"""A whole number of 0 or more."""
Name = Annotated[str, AfterValidator(_name)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Sha256OrNothing = Annotated[str, AfterValidator(_sha256_or_nothing)]
"""Empty where nobody knows it."""


class Strict(BaseModel):
    """A section of a file: no key that is not known, no value of another type, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Model = TypeVar("Model", bound=BaseModel)


def validated(schema: type[Model], document: Mapping[str, Any], source: Path | str) -> Model:
    """The document as `schema` has it. Raises InputError naming `source` and the field."""
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = for_line(".".join(str(part)[:80] for part in first["loc"]))
        message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        found = "" if isinstance(first["input"], dict | list) else f", found {shown(first['input'])}"
        raise InputError(f"{source}: {field}: {message}{found}") from None


def check_version(document: Mapping[str, Any], expected: str, path: Path) -> None:
    """Raise InputError where the file says another schema than `expected`, and where that is a newer one, so."""
    found = document.get("schema")
    if found == expected:
        return
    name, _, version = expected.rpartition("/")
    said, _, theirs = found.rpartition("/") if isinstance(found, str) else ("", "", "")
    if said == name and re.fullmatch("[0-9]{1,9}", theirs) and int(theirs) > int(version):
        raise InputError(f"{path}: schema: {found} is newer than this roofml, which reads {expected}: upgrade roofml")
    raise InputError(f"{path}: schema: {shown(found)}, expected {expected}")
