"""The model card of an exported folder: YAML for the Hub, then a page for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from charrnn.config.merge import config_from_data
from charrnn.config.schema import Config
from charrnn.data.vocabulary import read_vocabularies
from charrnn.evaluation.score import describe_scored
from charrnn.registry import CELLS
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.task import task_of

PIPELINES = {
    "language_model": "text-generation",
    "generation": "text-generation",
    "classification": "text-classification",
    "tagging": "token-classification",
    "translation": "translation",
}
"""The tasks of the Hub that fit ours; a task of another package has none."""

UNKNOWN_LICENSE = (
    "license: unknown  # fill in, such as cc-by-4.0: https://hf.co/docs/hub/repositories-licenses"
)
LANGUAGE = "# language: en  # unknown; fill in the ISO 639 code of the text's language"
FILL_IN = "unknown; fill in"

PAGE = """\
# {name}

A recurrent network of the task `{task}`, trained with charrnn: {model}, {parameters:,} parameters,
{symbols}.

## Text

- Text: {text} (SHA-256 `{sha256}`)
- Licence of the text: {text_licence}
- Split: {splits}

## Score

{score}

## Use

```
pip install 'charrnn-trainer[hub]'
charrnn {use} hf://{repository}{arguments}
```

charrnn also reads a copy of this folder by its path. `charrnn info` describes the model, and
`charrnn train --from` starts a new run from its weights. There is no state of the optimizer, so
training cannot be resumed. `model.safetensors` is all that charrnn reads; `config.json` and
`vocabulary.json` repeat its header for other programs.

## Training

```
{command}
```

{trained}

## What it is not for

The model imitates its text: it states no facts, follows no instructions, and may repeat passages of
the text word for word. It knows no other language, spelling or kind of text than that one. Nobody
has examined what it says of people; do not let it decide about them.
"""


def model_card(
    name: str, checkpoint: Checkpoint, license: str = "unknown", repository: str = "OWNER/NAME"
) -> str:
    """Write the model card of a checkpoint of weights alone, whose metadata names no folder."""
    metadata = checkpoint.metadata
    config = config_from_data(metadata["config"], name)
    vocabularies = read_vocabularies(metadata["vocabulary"])
    corpus, environment = metadata["corpus"], metadata["environment"]
    use = task_of(config.task).use
    hidden = config.model.widths
    packages = ", ".join(f"{key} {number}" for key, number in environment["packages"].items())
    page = PAGE.format(
        name=name,
        task=config.task,
        model=f"{len(hidden)} x {CELLS[config.model.cell].title.format_map(vars(config.model))} "
        f"{', '.join(map(str, sorted(set(hidden))))}",
        parameters=describe_scored(checkpoint)["parameters"],
        symbols=" and ".join(f"{one.size:,} {one.kind}s" for one in vocabularies.values()),
        text=corpus["described"],
        sha256=corpus["sha256"],
        text_licence=corpus["licence"],
        splits=", ".join(f"{count:,} {split}" for split, count in corpus["splits"].items()),
        score=describe_score(metadata),
        use=use,
        repository=repository,
        arguments="" if use == "sample" else ' "TEXT"',
        command=command_of(environment["command"]),
        trained=f"{metadata['progress']['step']:,} steps with Python {environment['python']}, "
        f"{packages}. `config.json` has every setting.",
    )
    return f"---\n{front_matter(name, config, metadata, license)}---\n\n{page}"


def front_matter(name: str, config: Config, metadata: Mapping[str, Any], license: str) -> str:
    """Write the metadata that the Hub reads, with comments where something is to be filled in."""
    pipeline = PIPELINES.get(config.task)
    data: dict[str, Any] = {"library_name": "charrnn"}
    if pipeline:
        data["pipeline_tag"] = pipeline
    data["tags"] = ["charrnn", "rnn", config.model.cell, f"{config.data.vocabulary}-level"]
    if record := score_in(metadata):
        corpus, split = metadata["corpus"], record.get("split", "validation")
        result = {
            "task": {"type": pipeline or config.task},
            "dataset": {"type": corpus["name"], "name": corpus["described"], "split": split},
            "metrics": [
                {"type": key, "value": value, "name": f"{_spoken(key)} ({record['protocol']})"}
                for key, value in _measures(record).items()
            ],
        }
        data["model-index"] = [{"name": name, "results": [result]}]
    first = UNKNOWN_LICENSE if license == "unknown" else f"license: {json.dumps(license)}"
    return f"{first}\n{LANGUAGE}\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}"


def score_in(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the score of the whole split, or else the best evaluation; empty if there is none."""
    return metadata["score"] or metadata["session"]["best"] or {}


def describe_score(metadata: Mapping[str, Any]) -> str:
    """List the measures of the score with its split and protocol."""
    record = score_in(metadata)
    if not record:
        return "No score was recorded."
    lines = [f"- {_spoken(key)}: {value:.4f}" for key, value in _measures(record).items()]
    how = f"On {record.get('split', 'validation')}; protocol: {record['protocol']}."
    return "\n".join([how, "", *lines])


def _measures(record: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in record.items() if isinstance(value, float)}


def _spoken(key: str) -> str:
    return key.replace("_", " ")


def command_of(arguments: Sequence[str]) -> str:
    """Write the command that trained the model, as a line for the shell.

    >>> command_of(["__main__.py", "train", "my book.txt"])
    "charrnn train 'my book.txt'"
    """
    if len(arguments) < 2 or arguments[1] not in ("train", "resume"):
        return "trained from Python"
    return shlex.join(["charrnn", *arguments[1:]])
