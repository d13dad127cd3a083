"""Settings in messages are named by the flags of the command that runs."""

import pytest

from charrnn.cli.flags import in_flags
from charrnn.cli.train import resume, train


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("try a lower training.learning_rate", "try a lower --learning-rate"),
        ("give training.steps, training.epochs.", "give --steps, --epochs."),
        ("use a smaller training.clip", "use a smaller training.clip"),
        ("a.yaml: model.cell = 'x': no cell", "a.yaml: model.cell = 'x': no cell"),
        ("--set training.steps=x", "--set training.steps=x"),
        ("unknown key; did you mean training.steps?", "unknown key; did you mean training.steps?"),
        ("cannot read /a/data.encoding", "cannot read /a/data.encoding"),
        ("cannot read data.encoding.txt", "cannot read data.encoding.txt"),
        ("leave out data.unknown", "leave out --unknown"),
        ("name it with data.sources", "name it with DATA"),
        ("separate files with data.validation", "separate files with --validation"),
    ],
)
def test_train_names_its_flags(message: str, shown: str) -> None:
    assert in_flags(message, train) == shown


def test_resume_names_its_own() -> None:
    assert in_flags("data.sources, data.unknown", resume) == "--data, --unknown"
    assert in_flags("a lower training.learning_rate", resume) == "a lower --learning-rate"
    assert in_flags("a lower training.clip", resume) == "a lower training.clip"
