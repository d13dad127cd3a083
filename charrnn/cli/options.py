"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import QUIET
from charrnn.registry import one_of

if TYPE_CHECKING:
    from charrnn.config.merge import Layer


class Number(click.FloatRange):
    """A finite number within bounds. Bounds alone would let NaN pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert a text to a float; fail with a usage error if it is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number; write one such as 0.7 or 1e-3", param, ctx)
        return number


def clamp(text: str) -> tuple[int, int, float]:
    """Read LAYER:UNIT=VALUE: a unit of a layer, and the value at which it is held.

    Raises BadParameter.
    """
    place, _, number = text.partition("=")
    layer, _, unit = place.partition(":")
    try:
        held = int(layer), int(unit), float(number)
    except ValueError:
        held = 0, 0, math.nan
    if not math.isfinite(held[2]):
        raise click.BadParameter(f"{text!r} is not LAYER:UNIT=VALUE, such as 0:137=1.0.")
    return held


class OptionalCount(click.IntRange):
    """A whole number after a flag; it may be left out if the flag is the last argument."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Convert a text to an int; fail with a usage error that says where arguments go."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter as error:
            flag = param.opts[0] if param else "the flag"
            self.fail(
                f"{error.message} Write {flag}=N, or the other arguments before {flag}.", param, ctx
            )


class NamesOption(click.Option):
    """An option that takes a name of a table; the names are listed only when its help is shown."""

    def __init__(self, *args: Any, names: Iterable[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        self.help = f"{one_of(self.names)}."
        return super().get_help_record(ctx)


def dynamic_rates(rate: str, decay: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--dynamic-rate` and `--dynamic-decay` to a command; both are None if not used.

    `rate` and `decay` describe the default values in the help.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--dynamic-decay", type=Number(min=0, max=100), metavar="X",
            help=f"The pull of dynamic evaluation back to the trained weights [{decay}].",
        )(command)  # fmt: skip
        return click.option(
            "--dynamic-rate", type=Number(min=0, max=100, min_open=True), metavar="X",
            help=f"The learning rate of dynamic evaluation [{rate}].",
        )(command)  # fmt: skip

    return add


def quiet(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--quiet` to a command: then `display.say` and the progress bar show nothing."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[QUIET] = value

    return click.option(
        "-q", "--quiet", is_flag=True, is_eager=True, expose_value=False, callback=remember,
        help="Nothing on standard error but warnings and errors.",
    )(command)  # fmt: skip


@contextmanager
def naming_rate_flag() -> Iterator[None]:
    """Name the flag in the error about a learning rate of dynamic evaluation that is too high."""
    from charrnn.errors import DivergedError

    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"{error} (--dynamic-rate)") from error


def override_layers(overrides: Sequence[str]) -> list[Layer]:
    """Make a layer of settings from each KEY=VALUE of `--set`. Raises ConfigError without `=`.

    >>> override_layers(["training.learning_rate=3e-4"])
    [('--set training.learning_rate=3e-4', {'training.learning_rate': 0.0003})]
    """
    from charrnn.config.strict_yaml import parse_yaml
    from charrnn.errors import ConfigError

    layers: list[Layer] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} has no value; write --set {override}=VALUE")
        layers.append((f"--set {override}", {key.strip(): parse_yaml(value, f"--set {key}")}))
    return layers
