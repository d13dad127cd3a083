"""`charrnn plot`: curves as pictures, as characters and as CSV."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn.cli import pictures, progress
from charrnn.cli.chart import chart_for, chart_lines
from charrnn.runs.directory import Run as Directory
from charrnn.sharing.curves import Chart, Line, chart_of, read_curves
from tests.cli.conftest import TINY
from tests.conftest import Run


def copy_of(trained: str, name: str, changes: dict[str, Any], times: float = 1.0) -> Path:
    """Copy a run; change lines of its config.yaml, and multiply its losses."""
    path = Path("runs") / name
    shutil.copytree(trained, path)
    config = (path / "config.yaml").read_text("utf-8")
    for key, value in changes.items():
        config, count = re.subn(rf"\b{key}: [\w.]+", f"{key}: {value}", config)
        assert count == 1
    (path / "config.yaml").write_text(config, "utf-8")
    for part in ("steps", "metrics"):
        lines = [json.loads(text) for text in (path / f"{part}.jsonl").read_text().splitlines()]
        for line in lines:
            for split in {"train", "validation"} & line.keys():
                line[split]["nats_per_character"] *= times
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path / f"{part}.jsonl").write_text(text, "utf-8")
    return path


def table(run: Run, *arguments: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(run("plot", *arguments, "--csv").out)))


def test_csv_has_what_the_files_of_the_run_have(run: Run, trained: str) -> None:
    rows = table(run, trained)
    steps = Directory(Path(trained)).records("steps")
    lines = [x for x in Directory(Path(trained)).metrics() if x["kind"] == "evaluation"]
    assert rows[0] == ["run", "curve", "steps", "nats"]
    training = [(int(x), float(y)) for _, curve, x, y in rows[1:] if curve == "training"]
    assert training == [(x["step"], x["train"]["nats_per_character"]) for x in steps]
    assert len(training) == 30
    validation = [(int(x), float(y)) for _, curve, x, y in rows[1:] if curve == "validation"]
    assert validation == [(x["step"], x["validation"]["nats_per_character"]) for x in lines]
    best = json.loads((Path(trained) / "best.json").read_text())
    assert rows[-1] == ["a", "best", str(best["step"]), repr(best["nats_per_character"])]


def test_bits_epochs_and_characters(run: Run, trained: str) -> None:
    lines = [x for x in Directory(Path(trained)).metrics() if x["kind"] == "evaluation"]
    rows = [row for row in table(run, trained, "--unit", "bits") if row[1] == "validation"]
    expected = [x["validation"]["bits_per_character"] for x in lines]
    assert np.allclose([float(row[3]) for row in rows], expected, rtol=1e-12)
    rows = [row for row in table(run, trained, "--x", "epochs") if row[1] == "validation"]
    assert np.allclose([float(row[2]) for row in rows], [x["epoch"] for x in lines], rtol=1e-9)
    rows = [row for row in table(run, trained, "--x", "characters") if row[1] == "training"]
    assert [float(row[2]) for row in rows] == [64.0 * step for step in range(1, 31)]


def test_seeds_become_a_mean_and_a_range(run: Run, trained: str) -> None:
    copy_of(trained, "b", {"seed": 2}, times=3)
    rows = table(run, trained, "runs/b")
    single = [float(row[3]) for row in table(run, trained) if row[1] == "validation"]
    for part, times in (("", 2), (" lowest", 1), (" highest", 3)):
        values = [float(row[3]) for row in rows if row[1] == f"validation{part}"]
        assert np.allclose(values, np.array(single) * times)
    copy_of(trained, "c", {"seed": 2, "clip": 2.0}, times=3)
    names = {row[0] for row in table(run, trained, "runs/b", "runs/c")[1:]}
    assert len(names) == 2
    assert "c" in names


def test_smoothing_is_added_and_the_raw_line_stays(run: Run, trained: str) -> None:
    plain, smooth = table(run, trained), table(run, trained, "--smooth", "5")
    assert [row for row in smooth if "mean" not in row[1]] == plain
    raw = [float(row[3]) for row in plain if row[1] == "training"]
    means = [float(row[3]) for row in smooth if row[1] == "training running mean"]
    assert np.isclose(means[10], np.mean(raw[8:13]))


def test_units_and_protocols_are_not_mixed(run: Run, trained: str, byte_model: str) -> None:
    error = run("plot", trained, byte_model).err
    assert "per byte and per character do not share an axis" in error
    other = copy_of(trained, "c", {})
    lines = (other / "metrics.jsonl").read_text()
    text = re.sub('"protocol": "[^"]*"', '"protocol": "another"', lines)
    (other / "metrics.jsonl").write_text(text)
    assert "different protocols" in run("plot", trained, str(other)).err
    assert "rate" in run("plot", trained, byte_model, "--y", "rate").out


def test_what_cannot_be_read_is_named_and_skipped(run: Run, trained: str) -> None:
    with (Path(trained) / "steps.jsonl").open("a") as file:
        file.write('{"step": 31, "train": {"nats_per_character": NaN}}\n{"step": 32, "tr')
    (Path("runs") / "empty" / "checkpoints").mkdir(parents=True)
    done = run("plot", trained, "runs/empty", "runs/nothing", "--csv")
    assert len([row for row in done.out.splitlines() if ",training," in row]) == 30
    assert "line 32 cannot be read" in done.err
    assert "step 31 has a number that is not finite" in done.err
    assert "empty has recorded no step" in done.err
    assert "no run or checkpoint 'runs/nothing'" in done.err
    refused = run("plot", "runs/empty")
    assert refused.code != 0
    assert "no run has a curve" in refused.err


def test_the_baseline_is_that_of_charrnn_baseline(run: Run, trained: str) -> None:
    config = Directory(Path(trained)).latest(pytest.fail).metadata["config"]
    expected = json.loads(run("baseline", config["data"]["sources"][0], "--json").out)
    row = table(run, trained, "--baseline")[-1]
    assert row[1] == "baseline"
    assert float(row[3]) == pytest.approx(expected["nats_per_character"], abs=1e-12)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_is_written(run: Run, trained: str, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    copy_of(trained, "$x_1$", {"clip": 2.0})
    path = Path(f"curves.{suffix}")
    run("plot", trained, "runs/$x_1$", "--out", str(path))
    content = path.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    if suffix == "svg":
        run("plot", trained, "runs/$x_1$", "--out", "again.svg")
        assert Path("again.svg").read_bytes() == content


def test_a_font_with_the_characters_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib.tables._g_l_y_f import Glyph
    from matplotlib import font_manager

    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "one"])
    builder.setupCharacterMap({ord("中"): "one"})
    builder.setupGlyf({".notdef": Glyph(), "one": Glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "one": (500, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Only One", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "one.ttf")
    alone = [str(tmp_path / "one.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: alone)
    usual = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", usual)
    families, missing = pictures.fonts_with("a中文")
    assert families == ["DejaVu Sans", "Only One"]
    assert missing == ["文"]
    pictures.save_alignment(tmp_path / "a.png", np.eye(1), ["文"], ["a"])
    assert capsys.readouterr().err.count("no installed font has") == 1


def lines_of_chart(count: int) -> Chart:
    x = np.arange(1.0, 11)
    lines = [Line(f"run-{i}", "validation", x, 5 / x + i, best=(10, 0.5 + i)) for i in range(count)]
    return Chart(lines, "steps", "nats per character", {"n-grams": 2.0})


def test_a_chart_of_characters_fits_the_terminal() -> None:
    drawn = chart_lines(lines_of_chart(2))
    assert max(map(len, drawn[:16])) <= 80
    assert drawn[0].startswith("    6\u2502b")
    assert drawn[13].endswith("*") or drawn[13].startswith("   0.5")
    assert "  a run-0: validation 0.5, * best 0.5000 at 10" in drawn
    ascii_lines = chart_for(io.TextIOWrapper(io.BytesIO(), "ascii"), lines_of_chart(1))
    assert all(line.isascii() for line in ascii_lines)
    assert any("*" in line for line in ascii_lines)
    one = Chart([Line("a", "rate", np.ones(1), np.ones(1))], "steps", "rate", {})
    assert len(chart_lines(one, width=20)) == 18


def test_a_run_without_steps_jsonl_has_the_points_of_its_evaluations(trained: str) -> None:
    (Path(trained) / "steps.jsonl").unlink()
    curves = read_curves(Directory(Path(trained)), pytest.fail)
    assert [point.steps for point in curves.training] == [10, 20, 30]
    warnings: list[str] = []
    chart = chart_of([curves], warnings.append, x="seconds")
    assert len(chart.lines) == 2
    assert not warnings


def test_training_leaves_a_picture_and_its_failure_fails_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["train", "book.txt", *TINY, "--steps", "10"]
    run(*arguments, "--out", "short")
    assert not Path("short/curves.svg").exists()
    monkeypatch.setattr(progress, "LONG_RUN", 0.0)
    monkeypatch.setattr(progress, "is_terminal", lambda _: True)
    done = run(*arguments, "--out", "long")
    assert Path("long/curves.svg").read_bytes().startswith(b"<?xml")
    assert "* best" in done.err

    def fail(*_: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(pictures, "save_curves", fail)
    done = run(*arguments, "--out", "failing")
    assert done.code == 0
    assert done.err.count("cannot draw the curve: no fonts") == 1
    assert not Path("failing/curves.svg").exists()
