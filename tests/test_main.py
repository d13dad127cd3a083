"""`python -m charrnn`: how threads wait, decided before torch is loaded."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, os, sys
sys.argv = ["charrnn", "--version"]
from charrnn.__main__ import main
before = "torch" in sys.modules
try:
    main()
except SystemExit:
    pass
print(json.dumps([before, "torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY")]))
"""


@pytest.mark.parametrize(("chosen", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, used: str
) -> None:
    if chosen is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    shown = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    # The policy is set while torch is not loaded yet: its runtime reads it once, when it loads.
    assert json.loads(shown.stdout.splitlines()[-1]) == [False, False, used]


ENDING = """
import atexit, sys, threading
sys.argv = ["charrnn", *sys.argv[1:]]
from charrnn.__main__ import main
threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
import charrnn.cli.main as cli
run = cli._run
cli._run = lambda began: (atexit.register(print, "logger"), run(began))[1]
class Late:
    def __del__(self): print("late")
keep = Late()
main()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["--nonsense"], 2)])
def test_the_end_waits_for_threads_and_exit_handlers_alone(arguments: list[str], code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert ended.stdout.splitlines()[-2:] == ["thread", "logger"]
