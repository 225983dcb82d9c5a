"""Reading a config field by field: every value is checked, every default noted, every refusal names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from roofml.models.weights import DTYPE_BYTES
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown

LARGEST = 2**31 - 1
MOST_LAYERS = 10_000
"""A model of more layers is a mistake in the config."""


class Fields:
    """The fields of a parsed `config.json`, or of the language model in it if it wraps several models.

    `assumed` lists the values taken from defaults, each as "field = value (why)".
    """

    def __init__(self, config: Mapping[str, Any], name: str, outer: Mapping[str, Any] | None = None) -> None:
        """`outer` is the wrapper's config, which may hold what the language model's leaves out."""
        self.config = config
        self.outer = config if outer is None else outer
        self.name = name
        self.assumed: list[str] = []

    def error(self, field: str, expected: str) -> InputError:
        """The error for a field whose value is not as `expected`."""
        value = repr(self.config.get(field))
        return InputError(
            f"{self.name}: {field}: expected {expected}, found {value if len(value) < 80 else value[:77] + '...'}"
        )

    def refusal(self, field: str, option: str) -> NotSupportedError:
        """The error for an option that is not modelled."""
        return NotSupportedError(f"{self.name}: {field}: {option} is not supported yet")

    def refuse(self, field: str, *harmless: object) -> None:
        """Raise NotSupportedError if the field is given with a value that changes the model and is not modelled."""
        value = self.config.get(field)
        if value is not None and value not in harmless:
            raise self.refusal(field, repr(value) if len(repr(value)) < 60 else "this option")

    def _assume(self, field: str, value: object, why: str) -> None:
        self.assumed.append(f"{field} = {value} ({why})")

    def _missing(self, field: str) -> bool:
        return self.config.get(field) is None

    def size(self, field: str, default: int | None = None, why: str = "not in the config: the class's default") -> int:
        """A positive integer. If the field is missing or null, the default, which `assumed` notes, or an error."""
        value = self.config.get(field)
        if value is None and default is not None:
            self._assume(field, default, why)
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            raise self.error(field, "a positive integer")
        return value

    @property
    def dtype(self) -> str:
        """The type of weights and activations: `dtype` or `torch_dtype`, of the language model or of its wrapper.

        vLLM serves a config without a type, or with float32, in bfloat16.
        """
        values = [config.get(field) for config in (self.config, self.outer) for field in ("dtype", "torch_dtype")]
        value = next((value for value in values if value is not None), None)
        if value is None or value == "float32":
            self._assume("dtype", "bfloat16", f"the config says {value or 'nothing'}: vLLM's choice")
            return "bfloat16"
        if not isinstance(value, str) or value not in DTYPE_BYTES:
            raise NotSupportedError(
                f"{self.name}: torch_dtype: {shown(value)}, expected one of {', '.join(DTYPE_BYTES)}"
            )
        return value

    def layers(self) -> int:
        """`num_hidden_layers`."""
        layers = self.size("num_hidden_layers")
        if layers > MOST_LAYERS:
            raise self.error("num_hidden_layers", f"at most {MOST_LAYERS}")
        return layers

    def count(self, field: str, default: int = 0) -> int:
        """An integer of 0 or more; `default` if it is missing or null."""
        value = self.config.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
            raise self.error(field, "an integer of 0 or more")
        return value

    def optional_size(self, field: str) -> int:
        """A positive integer, or 0 if the field is missing or null."""
        return 0 if self._missing(field) else self.size(field)

    def flag(self, field: str, default: bool = False) -> bool:
        """A boolean; the class's `default` if it is missing or null."""
        value = self.config.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(field, "true or false")
        return value

    def word(self, field: str, choices: Mapping[str, object] | None = None, default: str | None = None) -> str:
        """A string, one of `choices` if they are given."""
        value = self.config.get(field)
        if value is None and default is not None:
            self._assume(field, default, "not in the config")
            return default
        if not isinstance(value, str):
            raise self.error(field, "a string")
        if choices is not None and value not in choices:
            raise self.error(field, f"one of {', '.join(choices)}")
        return value

    def words(self, field: str, length: int, choices: Mapping[str, object]) -> list[str] | None:
        """The first `length` of a list of `choices` (draft layers may follow them); None if the field is missing."""
        if self._missing(field):
            return None
        value = self.config.get(field)
        if not isinstance(value, list) or len(cast("list[object]", value)) < length:
            raise self.error(field, f"a list of {length} layer types")
        items = cast("list[object]", value)[:length]
        for item in items:
            if not isinstance(item, str) or item not in choices:
                raise NotSupportedError(f"{self.name}: {field}: {shown(item)}, expected one of {', '.join(choices)}")
        return cast("list[str]", items)

    def numbers(self, field: str, length: int = 0) -> list[int] | None:
        """A list of integers of 0 or more, at least `length` of them; None if the field is missing or null."""
        if self._missing(field):
            return None
        value = self.config.get(field)
        expected = f"a list of {length or 'some'} integers of 0 or more"
        if not isinstance(value, list) or len(cast("list[object]", value)) < length:
            raise self.error(field, expected)
        for item in cast("list[object]", value):
            if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= LARGEST:
                raise self.error(field, expected)
        return cast("list[int]", value)

    def inner(self, field: str) -> Fields:
        """The fields of a nested mapping; an error names them `field.key`."""
        value = self.config.get(field)
        if not isinstance(value, dict):
            raise self.error(field, "a mapping")
        return Fields(cast("dict[str, Any]", value), f"{self.name}: {field}")

    def given(self, *names: str) -> str:
        """The first of a field's `names` that the config has; the first name if it has none."""
        return next((name for name in names if not self._missing(name)), names[0])

    def experts_per_token(self, experts: int, *names: str) -> int:
        """Number of experts that a token uses. Raises InputError for more than there are."""
        field = self.given(*(names or ("num_experts_per_tok",)))
        chosen = self.size(field)
        if chosen > experts:
            raise InputError(f"{self.name}: {field} {chosen} exceeds {experts} experts")
        return chosen
