"""Measure whether a generator writes names of the class it was asked for.

`python benchmarks/conditioned_names.py GENERATOR CLASSIFIER NAMES [--count 2000] [--seed 1]`

GENERATOR and CLASSIFIER are runs of `charrnn train NAMES --task generation` and
`--task classification` on the same split, which is checked. Labels are drawn as often as they occur
in training, and the generator writes a name for each. Names that occur in the training split, under
any label, are left out; the classifier labels the others. Prints one JSON object: the share of
names with the intended label, the share expected if the same names were assigned to labels at
random, and the accuracy of the classifier on the real names of validation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import fields
from typing import Any

from charrnn.config.merge import config_from_data
from charrnn.config.schema import Config
from charrnn.data.example_splits import load_examples
from charrnn.data.formats import Reading
from charrnn.data.labelled_texts import read_labelled
from charrnn.data.sources import find_sources
from charrnn.errors import CharrnnError, DataError
from charrnn.inference.sampler import Choice, Draws
from charrnn.inference.trained_model import writer_of
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.directory import find_checkpoint
from charrnn.tasks.generation import Generator
from charrnn.tasks.task import task_of

LONGEST = 200  # symbols of a text


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("generator")
    parser.add_argument("classifier")
    parser.add_argument("names")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=1.0)
    arguments = parser.parse_args()
    try:
        print(json.dumps(measure(**vars(arguments)), indent=1, ensure_ascii=False))
    except CharrnnError as error:
        sys.exit(str(error))


def measure(
    generator: str, classifier: str, names: str, count: int, seed: int, temperature: float
) -> dict[str, Any]:
    """Measure and return the object to print.

    Raises DataError if the runs were not trained on the same split.
    """
    checkpoints = [find_checkpoint(run, tell) for run in (generator, classifier)]
    configs, splits = split_of_both(checkpoints, names)
    writer = writer_of(checkpoints[0]).from_checkpoint(checkpoints[0])
    if not isinstance(writer, Generator):
        raise DataError(f"{generator} writes without a label; give a run of the task generation")
    if configs[1].task != "classification":
        raise DataError(f"{classifier} is no classifier; give a run of the task classification")
    predictor = task_of(configs[1].task).predictor(checkpoints[1], "cpu")

    def classes(texts: list[str]) -> list[str]:
        return [str(said.record["label"]) for said in predictor.predict(texts)]

    draws = Draws(seed, range(count))
    intended = writer.labels(draws)
    written = writer.write(intended, LONGEST, Choice(temperature), draws)
    known = {example.text for example in splits["train"]}
    novel = [
        (label, text.strip())
        for label, text in zip(intended, written, strict=True)
        if text.strip() and text.strip() not in known
    ]
    if not novel:
        raise DataError(f"none of {count:,} texts is new; give a higher --count or --temperature")
    said = classes([text for _, text in novel])
    wanted = Counter(label for label, _ in novel)
    right = Counter(label for (label, _), other in zip(novel, said, strict=True) if label == other)
    total = len(novel)
    real = splits["validation"]
    real_right = sum(
        example.label == other
        for example, other in zip(real, classes([e.text for e in real]), strict=True)
    )
    return {
        "written": count,
        "novel": total,
        "novel_and_different": len({text for _, text in novel}),
        "of_them_in_validation": sum(text in {e.text for e in real} for _, text in novel),
        "intended_label": round(right.total() / total, 4),
        "by_chance": round(
            sum(wanted[name] * n for name, n in Counter(said).items()) / total**2, 4
        ),
        "classifier_on_real_unseen_names": round(real_right / len(real), 4),
        "real_unseen_names": len(real),
        "by_label": {name: f"{right[name]}/{n}" for name, n in wanted.most_common()},
    }


def split_of_both(
    checkpoints: list[Checkpoint], names: str
) -> tuple[list[Config], dict[str, list[Any]]]:
    """Return the configurations of both runs, and the split of the names they were trained on."""
    configs = [config_from_data(c.metadata["config"], str(c.path)) for c in checkpoints]
    about = [
        (c.metadata["corpus"]["sha256"], c.metadata["corpus"]["splits"], config.data.split_by)
        for c, config in zip(checkpoints, configs, strict=True)
    ]
    if about[0] != about[1] or configs[0].data.split != configs[1].data.split:
        raise DataError("the two runs were not trained on the same split of the same names")
    data = configs[0].data
    examples = load_examples(
        read_labelled,
        find_sources([names]),
        how=Reading(**{one.name: getattr(data, one.name) for one in fields(Reading)}),
        fractions=data.split,
        by=data.split_by,
    )
    sizes = {name: len(part) for name, part in examples.splits.items()}
    if (examples.sha256, sizes) != about[0][:2]:
        raise DataError(f"{names} is not what the two runs were trained on")
    tell(f"both runs: {sizes}, SHA-256 {examples.sha256[:12]}, split by {data.split_by}")
    return configs, examples.splits


def tell(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
