"""Configuration is strict; errors have positions and suggestions; each value knows its source."""

import random
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.cli.config import config as config_command
from charrnn.cli.options import override_layers
from charrnn.config.merge import (
    EARLIER,
    NEWER,
    all_keys,
    build_config,
    config_from_data,
    describe_keys,
    dump_yaml,
    environment_layers,
    file_layer,
    flatten,
    nest,
    with_values,
)
from charrnn.config.schema import (
    LEVELS,
    TRAITS,
    Config,
    fields,
    key_of,
    parse_duration,
    unused_keys,
)
from charrnn.config.strict_yaml import parse_yaml
from charrnn.config.usual_names import KEYS, VALUES
from charrnn.errors import ConfigError
from charrnn.registry import TASKS


def read(text: str) -> Config:
    return build_config([("x.yaml", flatten(parse_yaml(text, "x.yaml")))])[0]


def problem(text: str) -> str:
    """Return the one-line error for a config file with this text."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert message.startswith("x.yaml")
    return message


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("modle: {cell: gru}", "model.cell"),
        ("trainig: {learning_rate: 1e-3}", "training.learning_rate"),
        ("checkpoits: {every: 5}", "checkpoints.every"),
        ("evaluaton: {every: 5}", "evaluation.every"),
        ("evaluaton: {window: 5}", "evaluation.window"),
        ("training: {learning_rat: 1e-3}", "training.learning_rate"),
        ("training: {lr: 1e-3}", "training.learning_rate"),
        ("lr: 1e-3", "training.learning_rate"),
        ("model: {rnn_size: 5}", "model.hidden_size"),
        ("hidden: 5", "model.hidden_size"),
        ("num_layers: 5", "model.layers"),
        ("model: {num_layer: 5}", "model.layers"),
        ("training: {seq_length: 5}", "training.window"),
        ("training: {seq_len: 5}", "training.window"),
        ("bptt: 5", "training.window"),
        ("training: {max_iters: 5}", "training.steps"),
        ("model: {batch: 5}", "training.batch_size"),
        ("model: {embed: 5}", "model.embedding_size"),
        ("training: {grad_clip: 5}", "training.clip"),
        ("model: {LR: 5}", "training.learning_rate"),
        ("model: {cell: rnn}", "vanilla"),
        ("model: {cell: LSTM}", "lstm"),
        ("model: {cell: SimpleRNN}", "vanilla"),
        ("model: {attention: bahdanau}", "additive"),
        ("task: seq2seq", "translation"),
        ("data: {vocabulary: chars}", "character"),
        ("model: {embedding_size: one-hot}", "one_hot"),
        ("device: gpu", "cuda"),
        ("precision: bf16", "bfloat16"),
        ("model: {hiden_size: 5}", "model.hidden_size"),
        ("learning_rate: 1e-3", "training.learning_rate"),
        ("devise: cpu", "device"),
        ("model: {cell: lstn}", "lstm"),
        ("model: {activation: than}", "tanh"),
        ("training: {optimizer: adm}", "adam"),
        ("training: {schedule: cosin}", "cosine"),
        ("data: {vocabulary: bytes}", "byte"),
        ("training: {max_time: auot}", None),
        ("training: {batch_size: {a: 1}}", None),
    ],
)
def test_unknown_keys_and_values_are_errors(text: str, suggestion: str | None) -> None:
    message = problem(text)
    if suggestion:
        assert message.endswith(f"did you mean {suggestion}?")


def test_usual_names_mean_keys_and_values_that_exist() -> None:
    assert set(KEYS.values()) <= set(all_keys())
    assert not KEYS.keys() & {key.rpartition(".")[2] for key in all_keys()}
    for key, usual in VALUES.items():
        for name, value in usual.items():
            with pytest.raises(ConfigError, match=f"did you mean {value}\\?$"):
                build_config([("x.yaml", {key: name})])


def test_a_section_is_not_a_value() -> None:
    assert "'model' is a section" in problem("model: lstm")


def test_an_empty_config_is_the_defaults() -> None:
    assert build_config([])[0] == Config()
    assert read("model: {}\ntraining: {}\n") == Config()


def one_edit(word: str, chance: random.Random) -> str:
    at = chance.randrange(len(word))
    letter = chance.choice(string.ascii_lowercase)
    return chance.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + letter + word[at:],
            word[:at] + letter + word[at + 1 :],
            word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        ]
    )


def test_one_edit_is_forgiven_in_the_suggestion() -> None:
    chance = random.Random(1)
    keys = all_keys()
    wrong = []
    count = 0
    while count < 100:
        key = chance.choice(keys)
        typo = one_edit(key, chance)
        if typo in keys or typo.count(".") != key.count(".") or "" in typo.split("."):
            continue
        count += 1
        with pytest.raises(ConfigError) as caught:
            build_config([("x.yaml", {typo: 1})])
        if not str(caught.value).endswith(f"did you mean {key}?"):
            wrong.append((key, str(caught.value)))
    print(f"{count - len(wrong)} of {count} typos get the right suggestion")
    assert len(wrong) <= 5, wrong


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 1e-3),
        ("1E-3", 1e-3),
        (".001", 1e-3),
        ("0.001", 1e-3),
        ("1.e-3", 1e-3),
        ("+1.0e-3", 1e-3),
        ("5", 5.0),
        ("1_000", 1000.0),
        ("1e3", 1000.0),
    ],
)
def test_numbers(text: str, number: float) -> None:
    rate = read(f"training: {{learning_rate: {text}}}").training.learning_rate
    assert rate == number
    assert isinstance(rate, float)


@pytest.mark.parametrize("word", ["no", "off", "yes", "on", "No", "y", "1", "0", "'true'"])
def test_only_true_and_false_are_truth_values(word: str) -> None:
    assert "deterministic" in problem(f"deterministic: {word}")


@pytest.mark.parametrize(("word", "value"), [("true", True), ("False", False), ("TRUE", True)])
def test_truth_values(word: str, value: bool) -> None:
    assert read(f"deterministic: {word}").deterministic is value


@pytest.mark.parametrize("word", ["no", "off", "1:30", "2026-01-01", "0x10", "0b1", "<<", "=", "y"])
def test_words_stay_words(word: str) -> None:
    assert read(f"data: {{sources: [{word}]}}").data.sources == [word]


@pytest.mark.parametrize("text", ["'5'", "5.5", "true", "five", "[5]", "5.0"])
def test_a_count_is_a_whole_number(text: str) -> None:
    assert "training.steps" in problem(f"training: {{steps: {text}}}")


@pytest.mark.parametrize("text", ["010", "08", "0_8"])
def test_a_leading_zero_never_means_octal(text: str) -> None:
    assert read(f"training: {{steps: {text}}}").training.steps == int(text)


@pytest.mark.parametrize("key", ["training.learning_rate", "training.clip", "model.forget_bias"])
@pytest.mark.parametrize("text", ["nan", ".nan", "inf", "-.inf", "1e999", "9" * 400, "NaN"])
def test_no_number_is_infinite(key: str, text: str) -> None:
    section, name = key.split(".")
    found = problem(f"{section}: {{{name}: {text}}}")
    assert key in found or found.startswith(f"x.yaml:1:{len(section) + len(name) + 6}: ")
    for number in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=key):
            build_config([("x.yaml", {key: number})])


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("device: cpu\ndevice: cpu\n", 2, 1),
        ("model:\n  cell: gru\n  cell: lstm\n", 3, 3),
        ("model: &m {cell: gru}\ntraining: *m\n", 2, 11),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", 2, 8),
        ("base: &b {}\nmodel:\n  <<: *b\n", 3, 7),
        ("device: !!python/object/apply:os.system ['true']\n", 1, 9),
        ("device: !!python/name:os.system x\n", 1, 9),
        ("device: !mine x\n", 1, 9),
        ("1: x\n", 1, 1),
        ("? [a]\n: x\n", 1, 3),
        ("true: x\n", 1, 1),
        ("model: {cell: gru\n", 2, 1),
        ("device: cpu\n\tx: y\n", 2, 1),
        ("device: 'cpu\n", 2, 1),
        ("a: 1\n---\nb: 1\n", 2, 1),
    ],
)
def test_yaml_errors_have_a_position(text: str, line: int, column: int) -> None:
    assert problem(text).startswith(f"x.yaml:{line}:{column}: ")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 5000,
        "a: 1\0",
        "a: \x07",
        "training: {steps: " + "9" * 5000 + "}",
        "training: {steps: !!int " + "9" * 5000 + "}",
        "training: {steps: -" + "9" * 30 + "}",
        "device: !!bool maybe",
        "device: !!int ''",
        "device: !!int x",
        "device: !!float ''",
        "device: !!timestamp x",
        "device: !!binary ü",
        "device: !!map [a]",
        "device: !!set {a, b}",
        "device: !!omap [a]",
        "device: !!pairs [[a]]",
        "device: !!merge x",
        "<<: {device: cpu}",
    ],
)
def test_hostile_yaml_is_one_line(text: str) -> None:
    problem(text)


@pytest.mark.parametrize("text", ["- a", "word", "5"])
def test_a_config_is_a_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match="a config is a mapping of sections"):
        file_layer(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="a config is a mapping of sections"):
        config_from_data(["a"], "x")


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        file_layer(tmp_path / "missing.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        file_layer(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_bytes(b"# nothing here\n")
    assert file_layer(tmp_path / "x.yaml") == (str(tmp_path / "x.yaml"), {})
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfdevice: cpu\r\n")
    assert file_layer(tmp_path / "x.yaml")[1] == {"device": "cpu"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("2m", 120),
        ("1h30m", 5400),
        ("1h", 3600),
        ("1h2m3s", 3723),
        ("1.5h", 5400),
        ("0.5", 0.5),
        ("'90'", 90),
        ("1e3", 1000),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert read(f"training: {{max_time: {text}}}").training.max_time == seconds


@pytest.mark.parametrize(
    "text",
    ["soon", "1d", "-5s", "30m1h", "1h 30m", "1:30", "s", "''", "0", "0s", "-1", "true", "5mm",
     "[1]", "9" * 400 + "s", "٣s"],
)  # fmt: skip
def test_what_is_no_duration(text: str) -> None:
    assert "training.max_time" in problem(f"training: {{max_time: {text}}}")


def test_durations_that_are_no_text_are_left_alone() -> None:
    assert parse_duration(None) is None
    assert parse_duration("auto") == "auto"
    assert read("training: {max_time: null, epochs: auto}").training.max_time is None


def test_precedence_and_sources(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    keys = ["steps", "batch_size", "window", "seed"]
    file.write_text("training: {" + ", ".join(f"{key}: 1" for key in keys) + "}\n")
    environment = {f"CHARRNN_TRAINING__{key.upper()}": "2" for key in keys[1:]}
    layers = [
        file_layer(file),
        *environment_layers(environment),
        *[(f"--{key}", {f"training.{key}": 3}) for key in keys[2:]],
        *override_layers(["training.seed=4"]),
    ]
    config, sources = build_config(layers)
    assert [getattr(config.training, key) for key in keys] == [1, 2, 3, 4]
    assert [sources[f"training.{key}"] for key in keys] == [
        str(file),
        "CHARRNN_TRAINING__BATCH_SIZE",
        "--window",
        "--set training.seed=4",
    ]
    assert sources["training.clip"] == "default"
    assert sources.keys() == set(all_keys())


def test_errors_name_the_source() -> None:
    layers = [("x.yaml", {"training.steps": 5}), ("--steps", {"training.steps": -1})]
    with pytest.raises(ConfigError, match=r"^--steps: training\.steps = '-1': .*greater than 0"):
        build_config(layers)


def test_the_environment() -> None:
    given = {
        "CHARRNN_TRAINING__LEARNING_RATE": "3e-4",
        "CHARRNN_MODEL__HIDDEN_SIZE": "[8, 9]",
        "CHARRNN_DEVICE": "cpu",
        "CHARRNN_CACHE_DIR": "/somewhere",
        "PATH": "/bin",
    }
    config, sources = build_config(environment_layers(given))
    assert config.training.learning_rate == 3e-4
    assert config.model.widths == [8, 9]
    assert config.device == "cpu"
    assert [key for key, source in sources.items() if source != "default"] == [
        "model.hidden_size",
        "training.learning_rate",
        "device",
    ]


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("CHARRNN_TRAINING__LEARNING_RAT", "training.learning_rate"),
        ("CHARRNN_TRAINING_LEARNING_RATE", "training.learning_rate"),
        ("CHARRNN_LEARNING_RATE", "training.learning_rate"),
        ("CHARRNN_DEVISE", "device"),
    ],
)
def test_a_mistyped_variable(variable: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(environment_layers({variable: "1"}))
    assert str(caught.value).startswith(f"{variable}: ")
    assert str(caught.value).endswith(f"did you mean {suggestion}?")


def test_a_variable_that_is_no_yaml() -> None:
    with pytest.raises(ConfigError, match="CHARRNN_DEVICE:1:"):
        environment_layers({"CHARRNN_DEVICE": "[cpu"})


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        ("language_model", "model.pooling", "mean"),
        ("language_model", "model.bidirectional", True),
        ("language_model", "data.form", "rows"),
        ("classification", "model.tie_embeddings", True),
        ("classification", "training.carry_state", False),
        ("classification", "training.window", 20),
        ("generation", "model.bidirectional", False),
        ("generation", "evaluation.lanes", 3),
        ("language_model", "model.attention", "dot"),
        ("tagging", "model.attention", "dot"),
        ("tagging", "data.vocabulary", "character"),
        ("translation", "model.character_hidden_size", 9),
        ("translation", "training.window", "auto"),
    ],
)
def test_a_key_that_a_task_does_not_use_is_refused(task: str, key: str, value: Any) -> None:
    said = re.escape(f"a file: {key} = {value!r} is not used by the task {task}; leave it out")
    with pytest.raises(ConfigError, match=said):
        build_config([("a file", {"task": task, key: value})])


UNUSED = {
    "language_model": """data.bad_rows data.form data.label_column data.maximum_length
        data.reading data.source_column data.split_by data.tag_column data.target_column
        data.text_column model.attention model.bidirectional model.pooling
        training.batch_symbols training.class_weights""",
    "classification": """data.reset_state_at_documents data.separator data.source_column
        data.tag_column data.target_column data.unknown evaluation.characters
        evaluation.lanes evaluation.warmup evaluation.window model.attention
        model.embedding_dropout model.tie_embeddings training.carry_state
        training.random_windows training.reset_probability training.window""",
    "generation": """data.reset_state_at_documents data.source_column data.tag_column
        data.target_column data.unknown evaluation.characters evaluation.lanes
        evaluation.warmup evaluation.window model.attention model.bidirectional
        model.character_embedding_size model.character_hidden_size model.pooling
        model.tie_embeddings training.carry_state training.class_weights
        training.random_windows training.reset_probability training.window""",
    "tagging": """data.form data.label_column data.reset_state_at_documents data.separator
        data.source_column data.target_column data.text_column data.unknown
        data.vocabulary evaluation.characters evaluation.lanes evaluation.warmup
        evaluation.window model.attention model.embedding_dropout model.pooling
        model.tie_embeddings training.carry_state training.class_weights
        training.random_windows training.reset_probability training.window""",
    "translation": """data.form data.label_column data.reset_state_at_documents
        data.separator data.tag_column data.text_column data.unknown evaluation.characters
        evaluation.lanes evaluation.warmup evaluation.window
        model.character_embedding_size model.character_hidden_size model.embedding_dropout
        model.pooling model.tie_embeddings training.carry_state training.class_weights
        training.random_windows training.reset_probability training.window""",
}


@pytest.mark.parametrize("task", UNUSED)
def test_the_keys_that_each_task_does_not_use(task: str) -> None:
    assert sorted(unused_keys(task)) == UNUSED[task].split()


def test_keys_and_tasks_name_traits_that_exist() -> None:
    needed = {key_of(field).needs for field in fields().values()} - {None}
    listed = {trait for entry in TASKS.values() for trait in entry.traits}
    assert needed == listed == TRAITS.keys()


@pytest.mark.parametrize("task", TASKS)
def test_a_whole_configuration_may_hold_keys_that_the_task_does_not_use(task: str) -> None:
    """A run's `config.yaml` has such keys: defaults, and values chosen for `auto`."""
    whole = flatten(Config().model_dump()) | {"task": task, "training.window": 20}
    config, _ = build_config([("config.yaml", whole)])
    assert config == config_from_data(nest(whole), "a checkpoint")
    assert with_values(config, {"training.window": 7}).training.window == 7
    older = {key: value for key, value in whole.items() if key != "model.words"}
    assert build_config([("config.yaml", older)])[0] == config
    wrong = {"language_model": {"model.pooling": "last"}}.get(task, {"evaluation.window": 3})
    with pytest.raises(ConfigError, match="is not used by the task"):
        build_config([("config.yaml", whole | wrong)])
    with pytest.raises(ConfigError, match="is not used by the task"):
        config_from_data(nest(whole | wrong), "a checkpoint")
    key = min(unused_keys(task))
    with pytest.raises(ConfigError, match=f"--set: {key} = .* is not used by the task"):
        build_config([("config.yaml", whole), ("--set", {key: whole[key]})])


@pytest.mark.parametrize("task", ["language_model", "classification", "translation"])
def test_the_config_of_an_older_run_gets_the_values_that_repeat_it(task: str) -> None:
    flat = flatten(Config().model_dump()) | {"task": task, "data.split_by": "hash"}
    unused = unused_keys(task)
    older = {key: value for key, value in flat.items() if key not in NEWER}
    config = build_config([("config.yaml", older)])[0]
    assert config == config_from_data(nest(older), "checkpoint")
    values = flatten(config.model_dump())
    assert {key: values[key] for key in EARLIER.keys() - unused} == {
        key: value for key, value in EARLIER.items() if key not in unused
    }
    new = build_config([("config.yaml", older | {key: flat[key] for key in NEWER - unused})])[0]
    assert new.data.reading == Config().data.reading
    changed = build_config([("config.yaml", older), ("--task", {"task": "language_model"})])[0]
    assert changed.data.reading == Config().data.reading


def test_a_minimum_count_without_symbols_to_count_is_refused() -> None:
    count = {"data.minimum_count": 2}
    build_config([("x", count)])
    build_config([("x", count | {"data.vocabulary": "word"})])
    build_config([("x", count | {"task": "classification"})])
    build_config([("x", count | {"task": "tagging"})])
    with pytest.raises(ConfigError, match="not used by a vocabulary of bytes"):
        build_config([("x", count | {"task": "generation", "data.vocabulary": "byte"})])
    whole = flatten(Config().model_dump()) | count
    assert build_config([("config.yaml", whole)])[0].data.minimum_count == 2


def test_a_number_of_layers_that_contradicts_the_listed_widths_is_refused() -> None:
    widths = {"model.hidden_size": [64, 32]}
    said = r"--layers: model\.layers = 3, but model\.hidden_size lists 2 widths"
    with pytest.raises(ConfigError, match=said):
        build_config([("--layers", {"model.layers": 3}), ("--hidden-size", widths)])
    three = {"model.hidden_size": [8, 9, 10]}
    assert build_config([("x", three)])[0].model.layers == 3
    whole = flatten(Config().model_dump()) | three
    assert whole["model.layers"] == 2
    assert build_config([("config.yaml", whole)])[0].model.layers == 3
    with pytest.raises(ConfigError, match=r"model\.layers"):
        read("model: {layers: many, hidden_size: [8, 9]}")


def test_overrides() -> None:
    config, _ = build_config(
        override_layers(["data.encoding=a=b", "training.steps=", "device=cpu"])
    )
    assert config.data.encoding == "a=b"
    assert config.training.steps is None
    with pytest.raises(ConfigError, match=r"--set training\.steps=VALUE"):
        override_layers(["training.steps"])
    with pytest.raises(ConfigError, match=r"did you mean training\.steps"):
        build_config(override_layers(["training.step=5"]))


SPLITS_REFUSED = ["[0.9]", "[1.0, 0.0]", "[0.5, 0.4]", "[0.7, 0.2, 0.2]", "[0.5, -0.1, 0.6]", "0.9",
                  "[0.25, 0.25, 0.25, 0.25]", "[]", "[a, b]"]  # fmt: skip


@pytest.mark.parametrize("split", SPLITS_REFUSED)
def test_splits_that_are_none(split: str) -> None:
    assert "data" in problem(f"data: {{split: {split}}}")


@pytest.mark.parametrize("split", [[0.9, 0.1], [0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5]])
def test_splits(split: list[float]) -> None:
    assert read(f"data: {{split: {split}}}").data.split == split


def test_a_test_set_is_given_once() -> None:
    with pytest.raises(ConfigError, match="third fraction"):
        read("data: {split: [0.8, 0.1, 0.1], test: [a.txt]}")


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:11"])
def test_devices(device: str) -> None:
    assert read(f"device: '{device}'").device == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda:0\n"])
def test_no_such_devices(device: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        build_config([("x.yaml", {"device": device})])


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().training.steps = 5


def test_widths() -> None:
    assert read("model: {layers: 3, hidden_size: 7}").model.widths == [7, 7, 7]
    with pytest.raises(ConfigError, match="still 'auto'"):
        _ = Config().model.widths


def test_with_values() -> None:
    config = with_values(read("training: {steps: 5}"), {"training.window": 7})
    assert (config.training.steps, config.training.window) == (5, 7)
    with pytest.raises(ConfigError):
        with_values(config, {"training.window": -7})


CONFIGS: list[Mapping[str, Any]] = [
    {},
    {"training.learning_rate": 1e-3, "training.clip": 1e-7, "training.weight_decay": 1e16},
    {"training.max_time": 90.0, "training.epochs": None},
    {"model.hidden_size": [8, 16, 8], "model.embedding_size": "one_hot", "model.dropout": 0.1},
    {"data.sources": ["-", "a b.txt", "no", "null", "~", "", "#x", "a: b", "ü☃", "x\ny", "true"]},
    {"data.sources": ["5", "1e3", "08", "1_0", ".5", "1.5e5", "1.", "0x1", "1:30", "2026-01-01"]},
    {"data.sources": ["\x85", "a\u2028b", "\xa0", "\t", "\x7f", "\ufeff"]},
    {"data.split": [0.7, 0.2, 0.1], "data.encoding": "utf-16", "data.errors": "replace"},
    {"training.betas": (0.5, 0.999), "training.seed": 2**32 - 1, "device": "cuda:1"},
]


@pytest.mark.parametrize("values", CONFIGS)
def test_what_is_dumped_reads_back(tmp_path: Path, values: Mapping[str, Any]) -> None:
    config, _ = build_config([("x.yaml", values)])
    (tmp_path / "x.yaml").write_text(dump_yaml(config), "utf-8")
    again, sources = build_config([file_layer(tmp_path / "x.yaml")])
    assert again == config
    assert "default" not in sources.values()
    assert dump_yaml(again) == dump_yaml(config)
    assert config_from_data(yaml.safe_load(dump_yaml(Config())), "x") == Config()


@settings(deadline=None, max_examples=100)
@given(
    sources=st.lists(st.text(max_size=6) | st.text("0123456789eE+-._:~no", max_size=6), max_size=3),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    seconds=st.floats(min_value=0.001, max_value=1e9),
)
def test_any_texts_and_numbers_read_back(sources: list[str], rate: float, seconds: float) -> None:
    values = {"data.sources": sources, "training.learning_rate": rate, "training.max_time": seconds}
    config, _ = build_config([("x.yaml", values)])
    assert read(dump_yaml(config)) == config


@given(
    st.dictionaries(
        st.lists(st.text("abc", min_size=1, max_size=2), min_size=2, max_size=2).map(".".join),
        st.integers() | st.none() | st.lists(st.integers()),
    )
)
def test_flatten_and_nest_are_inverse(flat: dict[str, Any]) -> None:
    assert flatten(nest(flat)) == flat


def test_every_key_takes_the_round_trip() -> None:
    flat = flatten(Config().model_dump())
    assert list(flat) == all_keys()
    assert nest(flat) == Config().model_dump()


def test_every_key_is_described() -> None:
    described = dict(describe_keys())
    assert list(described) == all_keys()
    assert all(text.endswith((".", "...")) and "\n" not in text for text in described.values())


def test_the_schema_describes_every_key() -> None:
    schema = Config.model_json_schema()
    described = dict(describe_keys())
    seen = []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            section = schema["$defs"][field["$ref"].rsplit("/", 1)[-1]]
            assert section["description"]
            assert section["additionalProperties"] is False
            for key, inner in section["properties"].items():
                seen.append(f"{name}.{key}")
                assert " ".join(inner["description"].split()) == described[seen[-1]]
        else:
            seen.append(name)
            assert " ".join(field["description"].split()) == described[name]
    assert seen == all_keys()


def test_the_keys_are_listed_by_level_the_everyday_ones_first() -> None:
    for command in (["defaults"], ["show"]):
        lines = CliRunner().invoke(config_command, command).output.splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("# ")]
        assert [lines[i].split()[1] for i in starts] == [f"{level}:" for level in LEVELS]
        assert starts[0] == 0
        keys = [line.split()[0] for line in lines if not line.startswith("# ")]
        assert sorted(keys) == sorted(all_keys())
        assert "training.learning_rate" in keys[: starts[1] - 1]
        assert "evaluation.lanes" in keys[starts[2] - 2 :]
    defaults = CliRunner().invoke(config_command, ["defaults"]).output
    assert re.search(r"^model\.pooling +\"max\" +.*\. For classification\.$", defaults, re.M)


def test_about_thirty_keys_are_for_research_and_protocol() -> None:
    levels = [key_of(field).level for field in fields().values()]
    assert 40 <= levels.count("everyday") <= 60
    assert levels.count("research") + levels.count("protocol") == 37


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model:\n  # cell: gru\ntraining:\n  seed: 3\n")
    config, _ = build_config([file_layer(path)])
    assert (config.model.cell, config.training.seed) == ("lstm", 3)
