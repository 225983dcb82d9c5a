"""Names of GPUs: the ways in which drivers, clouds and benchmarks write one, and the nearest known to a wrong one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from roofml.util.names import shown

LONGEST = 80
"""Characters of a name that is taken apart; a driver's longest has 57."""
SAYS_NOTHING = frozenset(
    [
        "nvidia",
        "amd",
        "intel",
        "habana",
        "instinct",
        "geforce",
        "tesla",
        "radeon",
        "r",
        "tm",
        "data",
        "center",
        "gpu",
        "graphics",
        "tensor",
        "core",
        "accelerator",
        "oam",
        "hgx",
        "dgx",
        "hbm2",
        "hbm2e",
        "hbm3",
        "edition",
    ]
)
"""Words that makers and drivers put into a name and that tell no two sheets apart."""
FORMS = re.compile(r"(sxm|pcie|nvl)\d*")
"""A form of a card, with or without its version: SXM5, PCIe, NVL72."""


def name_key(name: str) -> frozenset[str]:
    """The words of a GPU's name that matter, whatever their case, order and separators; none for what is no name.

    `NVIDIA H100 80GB HBM3` and `h100_80gb` are one, as are `A100 80GB PCIe` and `A100-PCIE-80GB`.
    """
    if len(name) > LONGEST or not re.fullmatch(r"[A-Za-z0-9 _()-]+", name):
        return frozenset()
    words = re.findall(r"[a-z0-9]+", FORMS.sub(r" \1 ", name.lower()))
    return frozenset(re.sub(r"^(\d+)gi?b?$", r"\1gb", word) for word in words if word not in SAYS_NOTHING)


def nearest_names(name: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` with the known names most like `name`, or nothing where none is."""
    if len(name) > LONGEST:
        return ""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(shown(by_lower[one]) for one in close)}?)" if close else ""
