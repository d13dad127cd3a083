"""A model in the Hugging Face Hub's layout: a folder on this machine, or an address `hf://`.

::

    <folder>/
      model.safetensors    a checkpoint of the weights alone; it is all that charrnn needs
      config.json          the configuration again, for other programs and for the Hub
      vocabulary.json      the vocabulary again
      README.md            the model card (`charrnn.sharing.model_card`)

`charrnn.sharing.hub` writes such a folder.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from charrnn.data.cache import cache_folder
from charrnn.errors import CheckpointError, ConfigError, StorageError, require_extra
from charrnn.runs.checkpoint import MAX_HEADER, TEMPORARY, Checkpoint, write_atomically

WEIGHTS = "model.safetensors"
COPIES = {"config.json": "config", "vocabulary.json": "vocabulary"}
"""The files that repeat a part of the metadata, and the name of that part."""
EXTRA = "hub"
OTHER_MODELS = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".t7", ".gguf", ".onnx", ".h5", ".keras"}
REFRESH = "CHARRNN_HUB_REFRESH"
_PART = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_ADDRESS = re.compile(rf"hf://({_PART}/{_PART}?)(?:@([\w.-]+(?:/[\w.-]+)*))?/?", re.ASCII)


# A folder ----------------------------------------------------------------------------------------


def weights_in(folder: Path) -> Path | None:
    """Return the path of the weights in a folder; None if it has none.

    Raises CheckpointError for a folder that has the model of another program instead, and for a
    link that leads out of the folder. The links of the cache of huggingface_hub, from
    `snapshots/COMMIT` to `blobs`, are followed.
    """
    path = folder / WEIGHTS
    if not os.path.lexists(path):
        others = [file.name for file in folder.iterdir() if file.suffix in OTHER_MODELS]
        if others:
            raise CheckpointError(
                f"{folder} has no {WEIGHTS}, but {min(others)}, which charrnn does not read; name "
                f"a run, or a folder that charrnn has exported"
            )
        return None
    inside = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        inside.append(folder.resolve().parents[1] / "blobs")
    if path.is_symlink() and path.resolve().parent not in inside:
        raise CheckpointError(
            f"{path} is a link out of its folder; copy the file that it leads to in its place"
        )
    return path


def check_copies(checkpoint: Checkpoint) -> None:
    """Refuse weights beside a config.json or vocabulary.json of another model.

    Raises CheckpointError.
    """
    for name, part in COPIES.items():
        path = checkpoint.path.with_name(name)
        if path.exists() and _read(path).get(part) != checkpoint.metadata[part]:
            raise CheckpointError(
                f"{path} differs from the {part} in {checkpoint.path.name}, which is the one that "
                f"charrnn reads; export the model again, or delete {name}"
            )


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is damaged or too large."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_HEADER:
            return {}  # Reading a pipe or a device might never end.
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


# An address --------------------------------------------------------------------------------------


def is_hub_address(name: str) -> bool:
    """Return whether a name begins like an address of the Hub."""
    return name.startswith("hf:")


def check_repository(name: str) -> None:
    """Raise ConfigError for a name that is not OWNER/NAME."""
    if not _REPOSITORY.fullmatch(name) or ".." in name:
        raise ConfigError(f"{name!r} is not the name of a repository; write it as OWNER/NAME")


def download(address: str) -> Path:
    """Return the file with the model of `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.

    A revision is a branch (`main` if there is none), a tag or a commit. What was downloaded once is
    taken from the cache folder without a connection, unless the environment variable
    `CHARRNN_HUB_REFRESH` is set; then the newest commit of the branch is fetched. Raises
    ConfigError for a wrong address or a missing package, StorageError if it cannot be downloaded.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise ConfigError(
            f"{address} is not an address of a model; write it as hf://OWNER/NAME, or "
            f"hf://OWNER/NAME@REVISION"
        )
    repository, revision = match[1], match[2] or "main"
    shelf = cache_folder() / "hub" / repository.replace("/", "--")
    commits = _read(shelf / "revisions.json")
    known = shelf / str(commits.get(revision, revision)) / WEIGHTS
    if known.is_file() and not os.environ.get(REFRESH):
        return known
    require_extra("huggingface_hub", EXTRA, address)
    commit = _fetch(address, repository, revision, shelf)
    if commits.get(revision) != commit:
        content = json.dumps({**commits, revision: commit}, indent=1)
        write_atomically(shelf / "revisions.json", content.encode())
    return shelf / commit / WEIGHTS


def _fetch(address: str, repository: str, revision: str, shelf: Path) -> str:
    """Download the files of a revision into a folder named by its commit; return the commit."""
    import huggingface_hub

    try:
        files = huggingface_hub.HfFileSystem(skip_instance_cache=True)
        api = huggingface_hub.HfApi()
        info = api.model_info(repository, revision=revision, timeout=10)
        commit = str(info.sha)
        if not re.fullmatch("[0-9a-f]{40,64}", commit):
            raise ValueError(f"the server gives {commit!r} as a commit")
        shelf.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=shelf, prefix=TEMPORARY) as folder:
            draft = Path(folder) / commit
            draft.mkdir()
            names = {file.rfilename for file in info.siblings or ()} & {WEIGHTS, *COPIES}
            if WEIGHTS not in names:
                raise ValueError(f"it has no {WEIGHTS}, so it is not a model of charrnn")
            for name in sorted(names):
                files.get_file(f"{repository}@{commit}/{name}", str(draft / name))
            if not (shelf / commit).exists():
                draft.rename(shelf / commit)
    except Exception as error:  # The errors of the client's transport differ between versions.
        raise StorageError(
            f"cannot download {address} ({first_line(error)}); check the address and the "
            f"network, or download {WEIGHTS} in a browser and name the file"
        ) from error
    return commit


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or else the error's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
