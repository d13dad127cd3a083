"""`charrnn sample`: seeds, prompts, stops, states, several samples and adaptation."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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
    assert "no file, folder or pattern 'none.txt'" in missing.err
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


GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture
def golden(run: Run, tmp_path: Path) -> str:
    """Return a language model of characters that has never to be trained, copied for this test."""
    shutil.copytree(GOLDEN / "lstm", tmp_path / "runs" / "lstm")
    return "lstm"


def poems(run: Run, tmp_path: Path, text: str, *options: str) -> str:
    """Train a model that writes texts of two classes, a file a text; return its name."""
    for kind in ("sea", "wood"):
        (tmp_path / "poems" / kind).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "poems" / kind / f"{i}.txt").write_text(
                f"{i} {text}".replace("X", kind), "utf-8"
            )
    few = ["--hidden-size", "8", "--steps", "10", "--set", "evaluation.sample_length=4"]
    few += ["--set", "training.warmup_steps=10", "--set", "evaluation.every=10", *options]
    done = run("train", "poems", "--task", "generation", *few, "--out", "runs/p")
    assert done.code == 0, done.err
    return "p"


def test_texts_of_several_lines_keep_their_lines(run: Run, tmp_path: Path) -> None:
    model = poems(run, tmp_path, "the X is\nwide\nas the\nX")
    arguments = ["sample", model, "--seed", "1", "--temperature", "0.7", "-n", "60"]
    few = [*arguments, "--num-samples", "3"]
    rows = [json.loads(row) for row in run(*few, "--json").out.splitlines()]
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    assert any("\n" in text for text in texts)

    def ended(text: str) -> str:
        return text if text.endswith("\n") else text + "\n"

    named = [f"--- sample {i}, {labels[i]}\n{ended(texts[i])}" for i in range(3)]
    assert run(*few).out == "".join(named)
    tabbed = [f"{label}\t{ended(text)}" for label, text in zip(labels, texts, strict=True)]
    assert run(*few, "--separator", "==").out == "==\n".join(tabbed)
    assert run(*few, "--separator", "").out == "\n".join(tabbed)
    assert run(*few, "--no-separator").out == "".join(tabbed)
    sea = [
        json.loads(row)["text"] for row in run(*few, "--label", "sea", "--json").out.splitlines()
    ]
    plain = [f"--- sample {i}\n{ended(text)}" for i, text in enumerate(sea)]
    assert run(*few, "--label", "sea").out == "".join(plain)
    assert run(*arguments, "--label", "sea").out == ended(sea[0])


@pytest.mark.parametrize("vocabulary", ["character", "byte"])
def test_texts_of_one_line_stand_one_a_line(run: Run, tmp_path: Path, vocabulary: str) -> None:
    model = poems(run, tmp_path, "the X is wide", "--vocabulary", vocabulary)
    options = ["--label", "sea", "--num-samples", "5", "--seed", "1", "-n", "9", "--top-k", "3"]
    texts = [
        json.loads(r)["text"] for r in run("sample", model, *options, "--json").out.splitlines()
    ]
    assert run("sample", model, *options).out == "".join(f"{text}\n" for text in texts)
    drawn = ["sample", model, *options[2:]]
    rows = [json.loads(row) for row in run(*drawn, "--json").out.splitlines()]
    assert {row["label"] for row in rows} <= {"sea", "wood"}
    assert run(*drawn).out == "".join(f"{row['label']}\t{row['text']}\n" for row in rows)


def test_samples_of_a_language_model_are_separated(run: Run, golden: str) -> None:
    few = ["sample", golden, "--num-samples", "2", "--seed", "1", "-n", "12"]
    one, two = (json.loads(row)["text"] for row in run(*few, "--json").out.splitlines())
    assert run(*few).out == f"--- sample 0\n{one}\n--- sample 1\n{two}\n"
    assert run(*few, "--separator", "<|end|>").out == f"{one}\n<|end|>\n{two}\n"
    assert run(*few, "--no-separator").out == f"{one}\n{two}\n"
    refused = run(*few, "--no-separator", "--separator", "x")
    assert refused.code == 2


def test_the_beam_finds_a_likelier_text_than_the_likeliest_symbols(run: Run, golden: str) -> None:
    def nats(*options: str) -> list[float]:
        result = run("sample", golden, "-n", "25", "--prompt", "The ", "--json", *options)
        assert result.code == 0, result.err
        assert "seed" not in result.err
        return [json.loads(row)["nats"] for row in result.out.splitlines()]

    greedy = run("sample", golden, "-n", "25", "--prompt", "The ", "--temperature", "0").out
    assert run("sample", golden, "-n", "25", "--prompt", "The ", "--beam", "1").out == greedy
    (narrow,) = nats("--beam", "1")
    wide = nats("--beam", "8", "--num-samples", "3")
    assert wide == sorted(wide)
    assert wide[0] < narrow
    stopped = run("sample", golden, "-n", "80", "--beam", "3", "--stop", "e").out
    assert stopped.count("e") == 1
    assert stopped.endswith("e\n")


@pytest.mark.parametrize(
    "options",
    [
        ["--beam", "2", "--temperature", "0.5"],
        ["--beam", "2", "--top-k", "3"],
        ["--beam", "2", "--greedy-inside-words"],
        ["--beam", "2", "--repetition-penalty", "2"],
        ["--beam", "2", "--num-samples", "3"],
        ["--beam", "2", "--save-state", "s"],
        ["--beam", "2", "--next", "3"],
        ["--next", "--num-samples", "3"],
        ["--interactive", "--beam", "2"],
        ["--interactive", "--prompt-file", "-"],
    ],
    ids=" ".join,
)
def test_flags_without_a_meaning_together_are_refused(
    run: Run, golden: str, options: list[str]
) -> None:
    result = run("sample", golden, *options)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1


def test_the_beam_writes_texts_of_a_class(run: Run, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "writer", tmp_path / "runs" / "w")
    found = run("sample", "w", "--beam", "4", "--num-samples", "4", "--seed", "1", "--json")
    rows = [json.loads(row) for row in found.out.splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) > 1
    assert len({row["label"] for row in rows}) == 1
    named = run("sample", "w", "--beam", "4", "--seed", "1").out
    assert named.startswith(f"{rows[0]['label']}\t{rows[0]['text']}")


def test_next_lists_the_likeliest_symbols(run: Run, golden: str) -> None:
    listed = json.loads(run("sample", golden, "--prompt", "th", "--next", "4", "--json").out)[
        "next"
    ]
    shares = [one["probability"] for one in listed]
    assert shares == sorted(shares, reverse=True)
    assert len(listed) == 4
    many = ["-n", "1", "--num-samples", "600", "--seed", "1", "--json"]
    drawn = run("sample", golden, "--prompt", "th", *many)
    first = [json.loads(row)["text"] for row in drawn.out.splitlines()]
    assert abs(first.count(listed[0]["symbol"]) / 600 - shares[0]) < 0.08
    every = json.loads(run("sample", golden, "--next", "1000", "--json").out)["next"]
    assert sum(one["probability"] for one in every) == pytest.approx(1)
    plain = run("sample", golden, "--prompt", "th", "--next").out.splitlines()
    assert len(plain) == 10
    assert plain[0] == f"{shares[0]:.4f}\t{listed[0]['symbol']!r}"
    only = run("sample", golden, "--prompt", "th", "--temperature", "0", "--next").out
    assert only == f"1.0000\t{listed[0]['symbol']!r}\n"
    wrong = run("sample", "--next", golden)
    assert wrong.code == 2
    assert "Write --next=N" in wrong.err


def test_greedy_inside_words_draws_only_where_a_word_may_begin(run: Run, golden: str) -> None:
    text = run("sample", golden, "-n", "200", "--seed", "3", "--greedy-inside-words").out
    for place in [match.end() for match in re.finditer(r"\w", text)][:12]:
        likeliest = json.loads(
            run("sample", golden, "--prompt", "\n" + text[:place], "--next", "1", "--json").out
        )["next"][0]["symbol"]
        assert text[place] == likeliest
    words = run("sample", str(GOLDEN / "word"), "--greedy-inside-words")
    assert words.code == 2
    assert "a model of words draws whole words" in words.err


def test_a_penalty_goes_on_from_a_saved_state(run: Run, golden: str) -> None:
    options = ["--seed", "3", "--repetition-penalty", "3", "--json"]

    def text(*more: str) -> str:
        return str(json.loads(run("sample", golden, *options, *more).out)["text"])

    whole = text("-n", "60")
    assert (
        whole != json.loads(run("sample", golden, "-n", "60", "--seed", "3", "--json").out)["text"]
    )
    first = text("-n", "25", "--save-state", "s.safetensors")
    rest = json.loads(run("sample", golden, "-n", "35", *options[2:], "--load-state",
                          "s.safetensors").out)  # fmt: skip
    assert first + rest["text"] == whole


def test_the_newest_run_is_taken_and_named(run: Run, golden: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "gru", tmp_path / "runs" / "older")
    for path in (tmp_path / "runs" / "older" / "checkpoints").iterdir():
        os.utime(path, (1, 1))
    result = run("sample", "-n", "20", "--seed", "1")
    assert "sampling from runs/lstm, the newest run" in result.err
    assert result.out == run("sample", golden, "-n", "20", "--seed", "1").out
    shutil.rmtree(tmp_path / "runs")
    none = run("sample", "-n", "20")
    assert (none.code, none.out) == (4, "")
    assert "there is no run under runs/" in none.err


def test_a_prompt_is_read_as_a_text_is(run: Run, golden: str, tmp_path: Path) -> None:
    options = ["--seed", "1", "-n", "30"]
    plain = run("sample", golden, *options, "--prompt", "The ").out
    assert run("sample", golden, *options, "--prompt", "\ufeffThe ").out == plain
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfThe ")
    assert run("sample", golden, *options, "--prompt-file", "mark.txt").out == plain
    assert run("sample", golden, *options, "--prompt-file", "-", stdin=b"The ").out == plain
    missing = run("sample", golden, "--prompt-file", "none.txt")
    assert missing.code == 3


def test_line_ends_and_accents_of_a_prompt_are_those_of_a_text(
    run: Run, trained: str, tmp_path: Path
) -> None:
    options = ["sample", trained, "--seed", "1", "-n", "30"]
    plain = run(*options, "--prompt", "line 1:\nthe ").out
    assert plain.startswith("line 1:\nthe ")
    assert run(*options, "--prompt", "line 1:\r\nthe ").out == plain
    (tmp_path / "crlf.txt").write_bytes(b"\xef\xbb\xbfline 1:\r\nthe ")
    assert run(*options, "--prompt-file", "crlf.txt").out == plain
    assert run(*options, "--prompt-file", "-", stdin=b"line 1:\r\nthe ").out == plain
    refused = run(*options, "--prompt", "the\u0301")
    assert "lacks U+00E9" in refused.err


def test_unknown_characters_of_a_prompt_have_near_ones(run: Run, golden: str) -> None:
    refused = run("sample", golden, "--prompt", "\u201cH\xe8 \u0442")
    assert refused.code == 3
    assert "U+0442" in refused.err
    assert "'e' for '\xe8'" in refused.err
    assert "--unknown to nearest" in refused.err
    read = run("sample", golden, "--prompt", "h\xe8 ", "--unknown", "nearest", "--seed", "1")
    assert read.out == run("sample", golden, "--prompt", "he ", "--seed", "1").out
    assert "read as 'he '" in read.err
    far = run("sample", golden, "--prompt", "h\xe8 \u0442", "--unknown", "nearest")
    assert far.code == 3
    assert "lacks U+0442 '\u0442'; set" in far.err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_data_in_a_pipe_is_utf_8_whatever_the_locale(
    run: Run, golden: str, encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text("caf\xe9 ", "utf-8")
    options = ["sample", golden, "--prompt-file", "prompt.txt", "-n", "40", "--seed", "1"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
    child = process(*options, stdout=subprocess.PIPE, env=environment)
    out, _ = child.communicate(timeout=60)
    assert out.startswith("caf\xe9 ".encode())
    assert out.decode("utf-8") == run(*options).out


def test_units_are_clamped_by_a_flag_and_by_a_command(run: Run, golden: str) -> None:
    options = ["sample", golden, "-n", "30", "--seed", "1"]
    plain = run(*options).out
    held = run(*options, "--clamp", "0:1=1", "--clamp", "0:2=-1").out
    assert held != plain
    commands = b"/clamp 0:1=1\n/clamp 0:2=-1\n\n"
    assert run(*options, "--interactive", stdin=commands).out == held
    assert run(*options, "--interactive", stdin=b"/clamp 0:1=1\n/clamp off\n\n").out == plain
    for clamp, message in (
        ("0:99=1", "no unit 99"),
        ("0:1=nan", "is not LAYER"),
        ("1", "is not LAYER"),
    ):
        refused = run(*options, "--clamp", clamp)
        assert refused.code == 2
        assert message in refused.err
    writer = run("sample", str(GOLDEN / "writer"), "--clamp", "0:1=1")
    assert writer.code == 2
    assert "--clamp has no effect" in writer.err
