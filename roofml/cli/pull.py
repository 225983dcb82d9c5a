"""roofml pull: a model's config from the Hugging Face Hub into model_configs/."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from roofml.util.errors import InputError
from roofml.util.outside_text import for_line


def pull(
    repo: Annotated[str, typer.Argument(help="Hub repository, as organization/model.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; asks the Hub again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Bring the config of a Hub model to model_configs/, pinned to a commit. What is there is not asked for again."""
    from roofml.models.hub import pull as pull_config
    from roofml.models.load import load_model

    pulled = pull_config(repo, revision)
    problem = None
    try:
        load_model(str(pulled.folder))
    except InputError as error:
        problem = str(error)
    if as_json:
        document = {
            "model": pulled.name,
            "path": str(pulled.folder / "config.json"),
            "hf_repo": pulled.repo,
            "revision": pulled.revision,
            "source": pulled.source,
            "files": pulled.files,
            "not_supported": problem,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    if not quiet:
        where = for_line(str(pulled.folder))
        typer.echo(f"{pulled.name}: {pulled.repo} at {pulled.revision[:12]} (from {pulled.source}) in {where}")
    if problem is not None:
        typer.echo(f"warning: pulled, but not usable yet: {for_line(problem)}", err=True)
