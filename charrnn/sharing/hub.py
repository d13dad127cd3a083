"""The format `hub`: a folder in the Hugging Face Hub's layout, and its upload."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charrnn.data.corpora import find_corpus
from charrnn.errors import ConfigError, StorageError, require_extra
from charrnn.inference.trained_model import model_weights
from charrnn.runs.checkpoint import Checkpoint, save_checkpoint
from charrnn.runs.environment import DISTRIBUTION
from charrnn.runs.hub import COPIES, EXTRA, WEIGHTS, check_repository, first_line
from charrnn.sharing.model_card import FILL_IN, model_card

_ARGUMENT = re.compile(r"((?:[\w.-]+=)?)(?:\w+://[^/]*([^?#]*).*|(.*))", re.DOTALL)
_SLASH = re.compile(r"[/\\]")
_LAST_SLASH = re.compile(r"[/\\]+(?= \(| and \d|$)")
TEXTS = ("sources", "validation", "test")


def export(
    checkpoint: Checkpoint,
    target: Path,
    license: str = "unknown",
    repository: str = "OWNER/NAME",
) -> None:
    """Write a folder with the weights, the configuration, the vocabulary and a model card.

    The weights are the averages, if the model has any. `license` is an identifier of the Hub, such
    as `cc-by-4.0`, and `repository` the name that the card gives as an address. Raises
    CheckpointError for weights that are not finite.
    """
    weights = {f"model/{name}": value for name, value in model_weights(checkpoint.tensors).items()}
    metadata = public_metadata(checkpoint.metadata)
    target.mkdir()
    save_checkpoint(target / WEIGHTS, weights, metadata)
    about = {
        "config.json": {
            "model_type": "charrnn",
            "architectures": [metadata["config"]["task"]],
            "charrnn_version": metadata["environment"]["packages"].get(DISTRIBUTION),
        },
        "vocabulary.json": {},
    }
    for name, part in COPIES.items():
        text = json.dumps({**about[name], part: metadata[part]}, indent=1, ensure_ascii=False)
        (target / name).write_text(text + "\n", "utf-8")
    name = target.name.removesuffix("-hub")
    card = model_card(name, Checkpoint(weights, metadata, target), license, repository)
    (target / "README.md").write_text(card, "utf-8")


def public_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's metadata without paths, and without what only `resume` needs."""
    config, corpus = dict(metadata["config"]), dict(metadata["corpus"])
    config["data"] = {
        key: list(map(base_name, value)) if key in TEXTS else value
        for key, value in config.get("data", {}).items()
    }
    corpus["described"] = base_name(corpus["described"])
    corpus["licence"] = licence_of_text(metadata)
    environment = metadata["environment"]
    command = environment.get("command")
    is_list = isinstance(command, list)
    session = {key: value for key, value in metadata["session"].items() if key != "rows"}
    session["best"] = _measured(session["best"])
    return {
        "weights_only": True,
        "config": config,
        "vocabulary": metadata["vocabulary"],
        "progress": metadata["progress"],
        "session": session,
        "corpus": corpus,
        "score": _measured(metadata.get("score")),
        "environment": {
            "command": list(map(base_name, map(str, command))) if is_list else [],
            "python": environment["python"],
            "platform": environment["platform"].partition("-")[0],
            "processor": environment["processor"],
            "packages": environment["packages"],
            "device": environment["device"],
            "threads": environment["threads"],
        },
    }


def licence_of_text(metadata: Mapping[str, Any]) -> str:
    """Return the licences of the texts that a model was trained on, as far as charrnn knows them.

    Those of named corpora are known. The run has absolute paths of files, so a file that is called
    like a corpus does not pass for it. An exported folder has the licence instead of the paths.
    """
    if metadata.get("weights_only"):
        return metadata["corpus"].get("licence") or FILL_IN
    sources = metadata["config"].get("data", {}).get("sources", [])
    named = {source: find_corpus(source) for source in sources}
    licences = {
        base_name(source): corpus[0].licence if corpus else FILL_IN
        for source, corpus in named.items()
    }
    if len({*licences.values()}) > 1:
        return "; ".join(f"{name}: {licence}" for name, licence in licences.items())
    return next(iter(licences.values()), FILL_IN)


def _measured(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the numbers of a score, with its split and protocol."""
    if record is None:
        return None
    kept = {"split", "protocol", "text_sha256"}
    return {
        key: value
        for key, value in record.items()
        if key in kept or isinstance(value, int | float | None)
    }


def base_name(text: str) -> str:
    """Cut the folders off the path in a text, which may be an argument such as `KEY=PATH`.

    >>> base_name("/home/ann/my book.txt"), base_name("texts/ (3 documents)")
    ('my book.txt', 'texts (3 documents)')
    >>> base_name("https://ann:secret@example.org/a.txt?key=1"), base_name("data.test=[a/b.txt]")
    ('a.txt', 'data.test=[...]')
    """
    match = _ARGUMENT.fullmatch(text)
    assert match is not None
    key, value = match[1], match[2] or match[3] or ""
    if value.startswith("[") and _SLASH.search(value):
        return f"{key}[...]"
    return key + _SLASH.split(_LAST_SLASH.sub("", value))[-1]


# Upload ------------------------------------------------------------------------------------------


def check_upload(repository: str) -> None:
    """Raise ConfigError if the name, the package or the token for an upload is missing."""
    check_repository(repository)
    require_extra("huggingface_hub", EXTRA, "uploading to the Hub")
    import huggingface_hub

    if not huggingface_hub.get_token():
        raise ConfigError(
            "there is no token for the Hub; run hf auth login, or set HF_TOKEN to a token that "
            "may write"
        )


def upload(folder: Path, repository: str) -> str:
    """Upload an exported folder to a repository of the Hub, and return its address.

    A repository that does not exist is made, as a private one. Raises StorageError.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload a model of charrnn"
        )
    except Exception as error:  # The errors of the client's transport differ between versions.
        raise StorageError(
            f"cannot upload to {repository} ({first_line(error)}); {folder} is complete, so you "
            f"can upload it by hand with hf upload {repository} {folder}"
        ) from error
    return str(address)
