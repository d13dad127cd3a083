"""Texts as people have them, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = ["--hidden-size", "8", "--layers", "1", "--batch-size", "4", "--window", "8",
         "--set", "model.embedding_size=6", "--device", "cpu", "--steps", "60",
         "--learning-rate", "0.05", "--set", "training.warmup_steps=10"]  # fmt: skip
POEMS = "the sea\nis green\n\nthe hill\nis still\n\n" * 30
Run = Callable[..., Any]


def test_a_model_of_poems_learns_their_ends(run: Run, tmp_path: Path) -> None:
    (tmp_path / "poems.txt").write_bytes(POEMS.replace("\n", "\r\n").encode())
    trained = run("train", "poems.txt", "--separator", "blank", "--out", "runs/p", *SMALL)
    assert trained.code == 0, trained.err
    assert "180 line ends of Windows" in trained.err
    assert "(the last 10%)" in trained.err
    sampled = run("sample", "runs/p", "--num-samples", "8", "--seed", "1", "--json",
                  "--temperature", "0.3", "-n", "200")  # fmt: skip
    texts = [json.loads(line)["text"] for line in sampled.out.splitlines()]
    assert all(len(text) < 40 for text in texts)
    assert any("\n" in text for text in texts)
    # Another text is scored with the ends of its parts, whatever its line ends.
    scores = []
    for name, text in (("a", POEMS), ("b", POEMS.replace("\n", "\r\n"))):
        (tmp_path / name).write_bytes(text.encode())
        scores.append(json.loads(run("eval", "runs/p", name, "--json").out))
    assert scores[0]["nats_per_character"] == scores[1]["nats_per_character"] < 1
    assert scores[0]["characters"] == len(POEMS) - 60  # Two line ends became one end.
    resumed = run("resume", "runs/p", "--steps", "70")
    assert resumed.code == 0, resumed.err


def test_rare_characters_are_counted_and_not_written(run: Run, tmp_path: Path) -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))
    (tmp_path / "x.txt").write_text("".join(f"ab{c} ba\n" for c in rare), "utf-8")
    trained = run("train", "x.txt", "--set", "data.minimum_count=2", "--out", "runs/r", *SMALL)
    assert trained.code == 0, trained.err
    assert "5 symbols" in trained.err
    score = json.loads(run("eval", "runs/r", "--json").out)
    assert 15 <= score["unknown_characters"] <= 25
    sampled = run("sample", "runs/r", "--seed", "1", "-n", "300")
    assert "\ufffd" not in sampled.out
    assert run("eval", "runs/r", "book.txt", "--json").code == 0


@pytest.mark.parametrize("command", ["train", "eval"])
def test_the_command_to_type_is_named(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "old.txt").write_bytes("Où êtes-vous, Zoë ?\n".encode("cp1252") * 9)
    run("train", "book.txt", "--out", "runs/b", *SMALL[:-2], "--set", "training.steps=11")
    arguments = [] if command == "train" else ["runs/b"]
    result = run(command, *arguments, "old.txt")
    assert result.code == 3
    assert "if 'Où êtes-vous, Zoë ?' is right, use --encoding windows-1252" in result.err
    again = run(command, *arguments, "old.txt", "--encoding", "windows-1252", "--unknown", "skip",
                *(["--steps", "11", *SMALL[:-2]] if command == "train" else []))  # fmt: skip
    assert again.code == 0, again.err
