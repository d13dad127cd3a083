"""`charrnn sample`: seeds, prompts, stops, states, several samples and adaptation."""

import json
import os
import re
import subprocess
from pathlib import Path

from tests.cli.conftest import TINY, process
from tests.conftest import TEXT, Run


def test_sample_is_repeatable_and_streams_the_prompt(run: Run, trained: str) -> None:
    one = run("sample", trained, "-n", "50", "--seed", "7", "--prompt", "the ")
    two = run("sample", trained, "-n", "50", "--seed", "7", "--prompt", "the ")
    assert one == two
    assert one.out.startswith("the ")
    assert len(one.out.rstrip("\n")) >= 50
    assert run("sample", trained, "-n", "50", "--seed", "8", "--prompt", "the ").out != one.out


def test_a_chosen_seed_is_printed(run: Run, trained: str) -> None:
    first = run("sample", trained, "-n", "40")
    seed = re.search(r"seed (\d+)", first.err)
    assert seed is not None
    assert run("sample", trained, "-n", "40", "--seed", seed[1]).out == first.out


def test_sample_three_of_ten_is_sample_three_of_five(run: Run, trained: str) -> None:
    def samples(count: int) -> list[str]:
        result = run(
            "sample", trained, "-n", "30", "--seed", "1", "--num-samples", str(count), "--json"
        )
        return [json.loads(line)["text"] for line in result.out.splitlines()]

    ten = samples(10)
    assert ten[:5] == samples(5)
    assert len(set(ten)) > 1
    assert run("sample", trained, "-n", "30", "--seed", "1").out.rstrip("\n") == ten[0].rstrip("\n")


def test_a_saved_state_goes_on_as_if_never_stopped(run: Run, trained: str, tmp_path: Path) -> None:
    whole = run("sample", trained, "-n", "60", "--seed", "3", "--json")
    first = run(
        "sample", trained, "-n", "25", "--seed", "3", "--json", "--save-state", "s.safetensors"
    )
    rest = run("sample", trained, "-n", "35", "--json", "--load-state", "s.safetensors")
    texts = [json.loads(result.out)["text"] for result in (whole, first, rest)]
    assert texts[0] == texts[1] + texts[2]
    foreign = run(
        "train",
        "book.txt",
        "--hidden-size",
        "9",
        "--steps",
        "2",
        "--set",
        "training.warmup_steps=10",
    )
    refused = run("sample", foreign.out.strip(), "--load-state", "s.safetensors")
    assert refused.code == 4


def test_stop_text_ends_a_sample(run: Run, trained: str) -> None:
    for count in ("1", "4"):
        result = run(
            "sample",
            trained,
            "-n",
            "400",
            "--seed",
            "1",
            "--stop",
            "e",
            "--num-samples",
            count,
            "--json",
        )
        for line in result.out.splitlines():
            text = json.loads(line)["text"]
            assert text.count("e") == 1
            assert text.endswith("e")


def test_greedy_needs_no_seed(run: Run, trained: str) -> None:
    first = run("sample", trained, "-n", "30", "--temperature", "0")
    assert "seed" not in first.err
    assert first.out == run("sample", trained, "-n", "30", "--temperature", "0", "--seed", "9").out


def test_prompts_with_unknown_characters(run: Run, trained: str, tmp_path: Path) -> None:
    refused = run("sample", trained, "--prompt", "naïve")
    assert refused.code == 3
    assert "U+00EF" in refused.err
    assert "set --unknown to skip" in refused.err
    skipped = run(
        "sample", trained, "--prompt", "theï", "--unknown", "skip", "--seed", "1", "--json"
    )
    plain = run("sample", trained, "--prompt", "the", "--seed", "1", "--json")
    assert json.loads(skipped.out)["text"] == json.loads(plain.out)["text"]
    (tmp_path / "prompt.txt").write_text("the", "utf-8")
    from_file = run("sample", trained, "--prompt-file", "prompt.txt", "--seed", "1", "--json")
    assert from_file.out == plain.out


def test_interactive_keeps_the_state_between_turns(run: Run, trained: str) -> None:
    two = run("sample", trained, "--interactive", "-n", "20", "--seed", "1", stdin=b"the\nfox\n")
    one = run("sample", trained, "--interactive", "-n", "20", "--seed", "1", stdin=b"the\n")
    assert (two.code, one.code) == (0, 0)
    assert two.out.startswith(one.out)
    assert len(two.out) > len(one.out)
    wrong = run(
        "sample", trained, "--interactive", "-n", "5", "--seed", "1", stdin="é\nthe\n".encode()
    )
    assert wrong.code == 0
    assert "U+00E9" in wrong.err


def test_interactive_without_newlines_in_the_vocabulary(run: Run, tmp_path: Path) -> None:
    (tmp_path / "flat.txt").write_text(TEXT.replace("\n", " "), "utf-8")
    run("train", "flat.txt", *TINY, "--steps", "3")
    result = run("sample", "flat-1", "--interactive", "-n", "5", "--seed", "1", stdin=b"the\n")
    assert (result.code, len(result.out)) == (0, 6)


def test_bytes_that_are_no_text_can_be_prompts(run: Run, byte_model: str) -> None:
    result = run("sample", byte_model, "--prompt", "\udcff", "-n", "3", "--seed", "1")
    assert result.code == 0
    assert result.out.startswith("\\udcff")


def test_sample_adapts_to_a_text(run: Run, trained: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(TEXT[:200] * 4, "utf-8")
    options = ["-n", "40", "--seed", "1"]
    plain = run("sample", trained, *options)
    result = run("sample", trained, *options, "--adapt-to", "other.txt", "--dynamic-rate", "0.05")
    assert result.code == 0, result.err
    assert result.out != plain.out
    assert (
        result.out
        == run("sample", trained, *options, "--adapt-to", "other.txt", "--dynamic-rate", "0.05").out
    )
    missing = run("sample", trained, "--adapt-to", "none.txt")
    assert missing.code == 3
    assert "cannot read the text none.txt" in missing.err
    alone = run("sample", trained, "--dynamic-rate", "0.05")
    assert alone.code == 2
    assert "give it a FILE" in alone.err


def test_a_byte_model_adapts_to_what_is_no_text(run: Run, byte_model: str, tmp_path: Path) -> None:
    (tmp_path / "some.bin").write_bytes(bytes(range(256)) * 2)
    result = run("sample", byte_model, "-n", "20", "--adapt-to", "some.bin")
    assert result.code == 0, result.err


def test_a_damaged_checkpoint_is_passed_over_or_refused(run: Run, trained: str) -> None:
    steps = sorted(Path(trained, "checkpoints").iterdir())
    content = bytearray(steps[-1].read_bytes())
    content[-5] ^= 1
    steps[-1].write_bytes(content)
    fallen_back = run("sample", trained, "-n", "5", "--seed", "1", "--last")
    assert fallen_back.code == 0, fallen_back.err
    assert "falling back" in fallen_back.err
    assert run("sample", steps[-1]).code == 4


def test_a_closed_pipe_is_no_error(run: Run, trained: str) -> None:
    child = process(
        "sample",
        trained,
        "-n",
        "20000",
        "--seed",
        "1",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert len(child.stdout.read(100)) == 100
    child.stdout.close()
    assert child.stderr is not None
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) == 0
    assert said == b""


def test_other_locales_are_no_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "emoji.txt").write_text("😀é\u200d🎉 ünï\n" * 60, "utf-8")
    assert run("train", "emoji.txt", *TINY, "--steps", "12", "--out", "runs/e").code == 0
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NO_COLOR": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for encoding in ({}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}):
        child = process("sample", "e", "-n", "50", **pipes, env=os.environ | plain | encoding)
        out, said = child.communicate(timeout=60)
        assert child.returncode == 0, said
        assert b"\x1b" not in out + said
        assert out
