"""Name settings by flags: the library speaks of `training.steps`, a command of `--steps`."""

from __future__ import annotations

import re

import click

# A setting by its full name, but not where it is assigned or suggested as a key: in
# "training.steps = 0: ..." and "did you mean training.steps?" the key itself is the subject.
_SETTING = re.compile(
    r"(?<![\w./])(?<!did you mean )"
    r"((?:data|model|training|evaluation|checkpoints)\.[a-z_]+)"
    r"(?![\w.]*\w)(?! ?=)"
)


def in_flags(message: str, command: click.Command) -> str:
    """The message with each setting that `command` has a flag for named by that flag.

    A flag belongs to the setting that its parameter is named after, as `training__steps`, or to
    the one that ends like it, as `unknown` to `data.unknown`. The text itself, `data.sources`, is
    `--data` or the argument DATA.
    """
    flags: dict[str, str] = {}
    for parameter in command.params:
        name = (parameter.name or "").replace("__", ".")
        name = {"data": "data.sources"}.get(name, name)
        is_option = isinstance(parameter, click.Option)
        flag = parameter.opts[-1] if is_option else str(parameter.name).upper()
        flags[name if "." in name else f"data.{name}"] = flag
    return _SETTING.sub(lambda match: flags.get(match[1], match[1]), message)
