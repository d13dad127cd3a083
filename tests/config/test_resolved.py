"""A resolved configuration has the same keys and the same file, but no `auto`."""

from typing import Any

import pytest
import torch
import yaml

from charrnn.config.merge import build_config, config_from_data, dump_yaml, flatten, with_values
from charrnn.config.resolved import DECIDED_LATER, ResolvedConfig, resolved
from charrnn.config.schema import Config
from charrnn.errors import ConfigError
from charrnn.training import planning
from charrnn.training.planning import plan


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> ResolvedConfig:
    monkeypatch.setattr(planning, "measure_speed", lambda _: 1e11)
    return plan(Config(), 10_000, 20, torch.device("cpu"))


def test_the_keys_are_those_of_the_configuration_in_the_same_order(planned: ResolvedConfig) -> None:
    assert [*flatten(planned.model_dump())] == [*flatten(Config().model_dump())]


def test_every_type_that_allows_auto_is_narrowed() -> None:
    values = flatten(Config().model_dump())
    for key in {key for key, value in values.items() if value == "auto"} - DECIDED_LATER:
        section, _, name = key.rpartition(".")
        owner: Any = ResolvedConfig.model_fields[section].annotation if section else ResolvedConfig
        assert owner.model_fields[name].is_required(), key


def test_its_file_reads_back_as_itself(planned: ResolvedConfig) -> None:
    read = config_from_data(yaml.safe_load(dump_yaml(planned)), "config.yaml")
    assert type(read) is Config
    assert resolved(read) == planned


def test_changed_values_keep_the_types(planned: ResolvedConfig) -> None:
    changed = with_values(planned, {"training.window": 7})
    assert type(changed) is ResolvedConfig
    assert changed.training.window == 7
    with pytest.raises(ConfigError, match=r"training\.window = 'auto'"):
        with_values(planned, {"training.window": "auto"})
    assert type(with_values(Config(), {"training.window": "auto"})) is Config


def test_settings_that_are_still_open_are_named(planned: ResolvedConfig) -> None:
    values = flatten(planned.model_dump()) | {"training.window": "auto", "model.dropout": "auto"}
    config = build_config([("x", values)])[0]
    with pytest.raises(ConfigError, match=r"^model\.dropout, training\.window: still 'auto'"):
        resolved(config)


def test_keys_that_older_checkpoints_lack_are_filled_in(planned: ResolvedConfig) -> None:
    data = planned.model_dump(mode="json")
    for section, key in (("model", "embedding_scale"), ("model", "words")):
        del data[section][key]
    for key in ("device", "precision", "threads", "processes"):
        del data[key]
    older = resolved(config_from_data(data, "an older checkpoint"))
    assert (older.model.embedding_scale, older.model.words) == (1.0, "lookup")
    assert (older.device, older.precision, older.threads, older.processes) == (
        "cpu", "float32", 1, 1)  # fmt: skip
