"""Reader: docker compose files and Kubernetes manifests that start a vLLM server.

A container's command is a list, a text, or a shell script within one; `$(NAME)` and `${NAME:-default}` are filled in
from its environment, compose's from an `.env` beside it too. The tag of vLLM's own image is the release. Environment
variables that vLLM does not read (MAX_MODEL_LEN) say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from roofml.traces.finding import Finding
from roofml.traces.server_files.command_line import OLD_ENGINE, Arguments, arguments, in_common, said_of_script
from roofml.traces.server_files.images import gpus_of, version_of_image
from roofml.traces.server_files.said import Said
from roofml.traces.server_files.shell import Script, words_of
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.reading import as_text, first_bytes, is_file, read_bytes, read_text
from roofml.util.yaml_io import parse_documents

HEAD = 65_536
NO_SERVER = ("healthcheck", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
"""Parts of a container whose commands look at a server."""

_KIND = re.compile(rb"^(?:services:|apiVersion:)", re.M)
_K8S_VARIABLE = re.compile(r"\$\(([A-Za-z_][\w.-]*)\)")
_SERVE = re.compile(r"(?:^|\s)(?:vllm\s+serve|-m\s+vllm\.entrypoints\.(?:openai\.)?api_server)(?=\s|$)")


def detect(path: Path) -> bool:
    """Whether the first 64 KiB of a file look like a compose file or a manifest that names vLLM."""
    head = first_bytes(path, HEAD)
    return bool(_KIND.search(head)) and b"vllm" in head.lower()


def facts(path: Path) -> Said:
    """What a compose file or a manifest says of its vLLM servers; of several, what they have in common.

    Raises InputError if it cannot be read.
    """
    documents = parse_documents(as_text(read_bytes(path), path), path)
    servers: list[Arguments] = []
    scripts: list[Said] = []
    images: list[str] = []
    refused: str | None = None
    for container in (container for document in documents for container in _containers(document)):
        words, environment = _words(container), _environment(container)
        text = " ".join(words)
        image = _filled(str(container.get("image", "")), path, {})
        if not (_SERVE.search(text) or ("vllm" in image.lower() and not _SERVE.search(image))):
            continue
        if not words and not image:
            continue
        images.append(image)
        refused = OLD_ENGINE if str(environment.get("VLLM_USE_V1")).lower() in ("0", "false") else refused
        known: Mapping[str, str | None] = {**_env_file(path), **environment}
        if any(re.fullmatch(r"-\w*c", word) for word in words):  # a shell and its script
            script = max(words, key=len).replace("$$", "$")
            scripts.append(said_of_script(_k8s(script, environment), path, known))
            continue
        filled = [_filled(_k8s(word, environment), path, environment) for word in words]
        servers.append(arguments(_after_command(filled), path))
    if not images:
        raise InputError(f"{path}: no container of vLLM in it, expected an image or a command with vllm")
    return _together(path, documents, servers, scripts, images, refused)


def _together(
    path: Path,
    documents: list[object],
    servers: list[Arguments],
    scripts: list[Said],
    images: list[str],
    refused: str | None,
) -> Said:
    found, findings = in_common(servers)
    for script in scripts:
        found = {**script.facts, **found} if not servers else found
        findings = (*findings, *script.findings)
        refused = refused or script.refused
    versions = {version for image in images if (version := version_of_image(image))}
    if len(versions) == 1:
        found |= {"engine": "vllm", "engine_version": versions.pop()}
    elif not versions and any(":" in image for image in images):
        findings = (*findings, _no_version(images[0]))
    gpus = sorted({gpu for document in documents for gpu in gpus_of(document)})
    if len(gpus) == 1:
        found["gpu"] = gpus[0]
    replicas = max((count for document in documents for count in _replicas(document)), default=1)
    if replicas > 1:
        findings = (*findings, _several_replicas(replicas))
    return Said(found, findings, refused)


def _containers(document: object) -> Iterator[Mapping[str, Any]]:
    """Every mapping with an image or a command, wherever it stands."""
    if isinstance(document, Mapping):
        mapping = cast("Mapping[str, Any]", document)
        if isinstance(mapping.get("image"), str) or isinstance(mapping.get("args"), list):
            yield mapping
        for key, value in mapping.items():
            if key not in NO_SERVER and not str(key).startswith("x-"):  # compose's templates
                yield from _containers(value)
    elif isinstance(document, list):
        for item in cast("list[object]", document):
            yield from _containers(item)


def _words(container: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for key in ("entrypoint", "command", "args"):
        value = cast("object", container.get(key))
        if isinstance(value, str):
            # `${X:-a b}` would be cut at its space
            words += [word for word in words_of(re.sub(r"\\\n", " ", value).replace("\n", " ")) if word]
        elif isinstance(value, list):
            words += [_text(item) for item in cast("list[object]", value)]
    return words


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The container's environment, as compose and Kubernetes write it; values from elsewhere are not there."""
    found: dict[str, str] = {}
    for key in ("env", "environment"):
        value = cast("object", container.get(key))
        if isinstance(value, Mapping):
            pairs = cast("Mapping[object, object]", value).items()
            found |= {str(name): _text(text) for name, text in pairs if text is not None}
        elif isinstance(value, list):
            for item in cast("list[object]", value):
                if isinstance(item, str) and "=" in item:
                    name, _, text = item.partition("=")
                    found[name] = text
                elif isinstance(item, Mapping):
                    entry = cast("Mapping[str, object]", item)
                    if "name" in entry and entry.get("value") is not None:
                        found[str(entry["name"])] = _text(entry["value"])
    return found


def _env_file(path: Path) -> dict[str, str]:
    """What an `.env` beside a compose file says."""
    beside = path.parent / ".env"
    if not is_file(beside):
        return {}
    found: dict[str, str] = {}
    for line in read_text(beside).splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.isidentifier():
            found[name] = value.strip().strip("'\"")
    return found


def _k8s(text: str, environment: Mapping[str, str]) -> str:
    """The text with `$(NAME)` put in; a name that is not known stays, as Kubernetes leaves it."""
    return _K8S_VARIABLE.sub(lambda found: environment.get(found[1], found[0]), text)


def _filled(text: str, path: Path, environment: Mapping[str, str]) -> str:
    """The text with `${NAME:-default}` put in, as compose does, and then `$NAME` of the container's shell."""
    return Script({**environment, **_env_file(path)}).expand(text.replace("$$", "$")) if "$" in text else text


def _after_command(words: list[str]) -> list[str]:
    """The words after `vllm serve` or the module of the server; all of them where the image starts it."""
    for place, word in enumerate(words):
        if word == "serve" and place and words[place - 1].rsplit("/", 1)[-1] == "vllm":
            return words[place + 1 :]
        if word.startswith("vllm.entrypoints."):
            return words[place + 1 :]
    return words[1:] if words[:1] == ["serve"] else words


def _replicas(document: object) -> Iterator[int]:
    if isinstance(document, Mapping):
        for key, value in cast("Mapping[object, object]", document).items():
            if key == "replicas" and isinstance(value, int) and not isinstance(value, bool):
                yield value
            else:
                yield from _replicas(value)
    elif isinstance(document, list):
        for item in cast("list[object]", document):
            yield from _replicas(item)


def _no_version(image: str) -> Finding:
    return Finding(
        "image-without-release",
        "info",
        f"The image {for_line(image)[:200]} does not say which release of vLLM is in it.",
        {"image": for_line(image)[:200]},
        "Give --engine-version, or the server's log.",
    )


def _several_replicas(replicas: int) -> Finding:
    return Finding(
        "several-replicas",
        "warning",
        f"The manifest starts {replicas} replicas: a client behind their service sees no single engine.",
        {"replicas": replicas},
        "Calibrate on a run that was sent to one of them.",
    )
