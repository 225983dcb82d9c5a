"""Which configs of a folder roofml reads, and why it refuses the others: a Markdown table.

python benchmarks/config_coverage.py ../shared/hf_configs > docs/configs.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from roofml.models.spec import read_model
from roofml.util.errors import InputError


def main() -> None:
    """Print the table."""
    rows: list[str] = []
    read = 0
    paths = sorted(Path(sys.argv[1]).glob("*.json"))
    for path in paths:
        try:
            model = read_model(str(path))
        except InputError as error:
            reason = str(error).removeprefix(f"{path.stem}: ").split(" (supported:")[0]
            rows.append(f"| {path.stem} | refused | {reason} | |")
        else:
            read += 1
            total, active = model.parameters() / 1e9, model.active_parameters() / 1e9
            rows.append(
                f"| {path.stem} | {model.architecture} | {total:.2f} B, {active:.2f} B | {model.quantization} |"
            )
    print(f"# Configs read: {read} of {len(paths)}\n")
    print("Made by `python benchmarks/config_coverage.py ../shared/hf_configs`. Parameters are the language model's:")
    print("all, and those one token uses.\n")
    print("| config | class | parameters, or the reason | quantization |\n|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
