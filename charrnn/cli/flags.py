"""Name settings by flags: the library speaks of `training.steps`, a command of `--steps`."""

from __future__ import annotations

import re

import click

# The full name of a setting. A name in an assignment ("training.steps = 0: ...") or in a suggestion
# ("did you mean training.steps?") does not match, since the key itself is meant there.
_SETTING = re.compile(
    r"(?<![\w./])(?<!did you mean )"
    r"((?:data|model|training|evaluation|checkpoints)\.[a-z_]+)"
    r"(?![\w.]*\w)(?! ?=)"
)


def in_flags(message: str, command: click.Command) -> str:
    """Replace the settings in a message by the flags that `command` has for them.

    A flag with the parameter `training__steps` sets `training.steps`; a flag with the parameter
    `unknown` sets the setting that ends in it, `data.unknown`. The text, `data.sources`, is set by
    `--data` or the argument DATA. `start_from`, an argument of the function
    `charrnn.train`, becomes `charrnn train --from`.
    """
    flags: dict[str, str] = {}
    for parameter in command.params:
        name = (parameter.name or "").replace("__", ".")
        name = {"data": "data.sources"}.get(name, name)
        is_option = isinstance(parameter, click.Option)
        flag = parameter.opts[-1] if is_option else str(parameter.name).upper()
        flags[name if "." in name else f"data.{name}"] = flag
    message = _SETTING.sub(lambda match: flags.get(match[1], match[1]), message)
    return re.sub(r"\bstart_from\b", "charrnn train --from", message)
