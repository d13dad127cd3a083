"""The list of the package's messages, and rules for all of them."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "messages.py"))


def test_each_kind_of_message_is_listed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "def f(x, warn, self):\n"
        '    raise ValueError(f"{x!r} is " "wrong")\n'
        '    warn("a " + x.name)\n'
        "    self.fail(x, 1)\n"
        "    raise KeyError\n",
        "utf-8",
    )
    listed = [(line, kind, text) for _, line, kind, text in SCRIPT["messages_in"](module)]
    assert sorted(listed) == [
        (2, "ValueError", "{x} is wrong"),
        (3, "warn", "a {x.name}"),
        (4, "fail", "{x}"),
    ]


MESSAGES = [m for path in ROOT.glob("charrnn/**/*.py") for m in SCRIPT["messages_in"](path)]


def test_the_library_names_settings_and_only_the_commands_name_flags() -> None:
    # The arguments of --set are parsed in merge.py, for all commands that have it.
    own = [m for m in MESSAGES if not m.text.startswith("--set {override")]
    library = [message for message in own if "cli" not in message.path.parts]
    assert len(library) > 100
    flagged = [f"{m.path}:{m.line}: {m.text}" for m in library if re.search(r"\W--[a-z]", m.text)]
    assert not flagged, "\n".join(flagged)
