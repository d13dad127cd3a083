"""A folder for the Hugging Face Hub: what it says and hides, and that it is read like a run."""

import getpass
import json
import os
import pickle
import shutil
import socket
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import charrnn
from charrnn.errors import CheckpointError
from charrnn.inference.trained_model import model_weights, writer_of
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.directory import Run as RunDirectory
from charrnn.runs.directory import find_checkpoint
from charrnn.sharing.hub import base_name, export
from charrnn.tasks.task import task_of
from tests.conftest import Run
from tests.golden.cases import CASES
from tests.sharing.hub_server import TOKEN, Hub, running_hub

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
TEXTS = [name for name, case in CASES.items() if case.task == "language_model"]
WRITERS = [name for name, case in CASES.items() if case.task == "generation"]
OTHERS = [name for name in CASES if name not in {*TEXTS, *WRITERS}]
FILES = ["README.md", "config.json", "model.safetensors", "vocabulary.json"]


def exported(name: str, folder: Path, **options: Any) -> Path:
    charrnn.export(GOLDEN / name, "hub", folder / name, **options)
    return folder / name


def slow_after_first(names: list[str], *others: str) -> list[Any]:
    """Mark all runs but the first of each task, and some others, as slow."""
    firsts = {*{CASES[name].task: name for name in reversed(names)}.values(), *others}
    marks = {name: () if name in firsts else pytest.mark.slow for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.fixture
def lstm(tmp_path: Path) -> Path:
    return exported("lstm", tmp_path)


# Round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_after_first([*CASES], "average", "tied", "words-beside"))
def test_weights_and_vocabularies_are_kept(name: str, tmp_path: Path) -> None:
    before, after = (
        find_checkpoint(str(place), print) for place in (GOLDEN / name, exported(name, tmp_path))
    )
    first, second = model_weights(before.tensors), model_weights(after.tensors)
    assert first.keys() == second.keys()
    assert all(np.array_equal(value, second[weight]) for weight, value in first.items())
    for part in ("vocabulary", "progress"):
        assert before.metadata[part] == after.metadata[part]


FEW = ["lstm", "mingru", "average"]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *((name, 20) for name in FEW),
        *(pytest.param(name, 1000, marks=pytest.mark.slow) for name in TEXTS),
    ],
)
def test_a_language_model_is_the_same_bit_for_bit(name: str, steps: int, tmp_path: Path) -> None:
    models = charrnn.load(GOLDEN / name), charrnn.load(exported(name, tmp_path))
    draw = np.random.default_rng(1)
    for lanes in (1, 3):
        states = [model.initial_state(lanes) for model in models]
        for _ in range(steps):
            ids = draw.integers(0, models[0].vocabulary.size, lanes)
            both = [model.step(ids, state) for model, state in zip(models, states, strict=True)]
            states = [state for _, state in both]
            assert np.array_equal(both[0][0], both[1][0])
    first, second = (model.sample_text(100, "the ", seed=3) for model in models)
    assert first == second


@pytest.mark.parametrize("name", slow_after_first(WRITERS))
def test_a_writer_of_classes_writes_the_same(name: str, run: Run, tmp_path: Path) -> None:
    folder = exported(name, tmp_path)
    ways = ("--num-samples", "3", "--seed", "5")
    first, second = (run("sample", place, *ways) for place in (GOLDEN / name, folder))
    assert (first.code, first.out) == (0, second.out)
    assert writer_of(find_checkpoint(str(folder), print)).__name__ == "Generator"


@pytest.mark.parametrize("name", slow_after_first(OTHERS))
def test_a_predictor_predicts_the_same(name: str, run: Run, tmp_path: Path) -> None:
    folder = exported(name, tmp_path)
    first, second = (
        run("predict", place, "The harbour is", "--json") for place in (GOLDEN / name, folder)
    )
    assert (first.code, first.out) == (0, second.out)
    checkpoint = find_checkpoint(str(folder), print)
    assert task_of(CASES[name].task).predictor(checkpoint, "cpu")


def test_every_command_reads_the_folder(run: Run, lstm: Path) -> None:
    text = ("eval", "book.txt", "--unknown", "skip")
    first, second = (run(text[0], place, *text[1:]) for place in (GOLDEN / "lstm", lstm))
    assert (first.code, first.out) == (0, second.out)
    shown = run("info", lstm)
    assert shown.code == 0
    assert "validation  2.8249 nats per character at step 90 (2 lanes, warm-up 5)" in shown.out
    assert run("vocab", lstm).out == run("vocab", GOLDEN / "lstm").out
    again = run("export", lstm, "--format", "hub", "--license", "mit", "--out", "again")
    assert (again.code, again.err) == (0, "")
    first, second = (load_checkpoint(folder / FILES[2]) for folder in (Path("again"), lstm))
    assert first.metadata == second.metadata
    assert all(np.array_equal(value, second.tensors[n]) for n, value in first.tensors.items())
    begun = run("train", "book.txt", "--from", lstm, "--steps", "3", "--out", "new")
    assert (begun.code, RunDirectory(Path("new")).steps()[-1]) == (0, 3)
    refused = run("resume", lstm)
    assert (refused.code, refused.err.count("\n")) == (4, 1)
    assert "without the optimizer's state" in refused.err
    assert refused.err.endswith("start a new run from its weights with charrnn train --from\n")


# What it says, and what it hides -----------------------------------------------------------------


def test_the_folder_holds_nothing_of_the_machine_and_no_state_of_training(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / "jane-of-the-harbour"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "jane-of-the-harbour")
    shutil.copy("book.txt", home / "my book.txt")
    train = ["train", home / "my book.txt", "--out", home / "the run", "--hidden-size", "4"]
    settings = ("training.steps=4", "training.average=0.9", "data.validation=[]")
    flags = [word for setting in settings for word in ("--set", setting)]
    assert run(*train, "--layers", "1", "--embedding-size", "4", *flags).code == 0
    stored = RunDirectory(home / "the run").latest(print)
    assert str(home) in json.dumps(stored.metadata)
    charrnn.export(home / "the run", "hub", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    content = b"".join((tmp_path / "out" / name).read_bytes() for name in FILES)
    for kind in ("optimizer/", "exp_avg", "square_avg", "momentum_buffer", "carry/", "average/",
                 "interval_nats", '"rows"', '"commit"', '"time"'):  # fmt: skip
        assert kind.encode() not in content, kind
        assert kind.encode() not in content.replace(b"\\", b""), kind
    for name in (str(tmp_path), str(home), "jane-of-the-harbour", "/home", "/tmp", str(Path.cwd()),
                 socket.gethostname(), os.sep + getpass.getuser()):  # fmt: skip
        assert name.encode() not in content, name
    names = find_checkpoint(str(tmp_path / "out"), print).tensors
    assert all(name.startswith("model/") for name in names)
    averages = {n.removeprefix("average/"): v for n, v in stored.tensors.items() if "average/" in n}
    assert all(np.array_equal(names[f"model/{n}"], value) for n, value in averages.items())


def test_paths_of_all_kinds_lose_their_folders() -> None:
    for text, expected in (
        ("/home/ann lee/my book.txt", "my book.txt"),
        (r"C:\Users\ann\book.txt", "book.txt"),
        ("/home/ann/books/", "books"),
        ("/home/ann/books/ (3 documents)", "books (3 documents)"),
        ("/home/ann/a.txt and 2 more (3 documents)", "a.txt and 2 more (3 documents)"),
        ("--out=/home/ann/run", "--out=run"),
        ("data.test=['/home/Lee, Ann/a.txt', b.txt]", "data.test=[...]"),
        ("https://ann:secret@ann.example/a/b.txt?token=1", "b.txt"),
        ("https://ann:secret@ann.example", ""),
        ("data.sources=https://ann.example/b.txt", "data.sources=b.txt"),
        ("training.betas=[0.9, 0.99]", "training.betas=[0.9, 0.99]"),
        ("-", "-"),
        ("gutenberg:11", "gutenberg:11"),
    ):
        assert base_name(text) == expected


def card(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, page = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), page


@pytest.mark.parametrize("name", ["lstm", "classes", "tags", "pairs-dot", "writer"])
def test_the_card(name: str, tmp_path: Path) -> None:
    data, page = card(exported(name, tmp_path))
    assert data["license"] == "unknown"
    assert "language" not in data
    assert data["library_name"] == "charrnn"
    best = find_checkpoint(str(tmp_path / name), print).metadata["session"]["best"]
    index = data.get("model-index", [{"results": [{"metrics": []}]}])
    metrics = {one["type"]: one["value"] for one in index[0]["results"][0]["metrics"]}
    assert (metrics == {}) == (best is None) == (name != "lstm")
    assert metrics.items() <= (best or {}).items()
    assert (best["protocol"] if best else "No score was recorded.") in page
    for part in ("charrnn train ", "Licence of the text: unknown; fill in", "not for", "Split: "):
        assert part in page
    use = {"lstm": "sample", "writer": "sample"}.get(name, "predict")
    assert f"charrnn {use} hf://OWNER/NAME" in page
    if find_spec("huggingface_hub"):
        from huggingface_hub import ModelCard

        parsed = ModelCard((tmp_path / name / "README.md").read_text("utf-8")).data
        assert len(parsed.eval_results or ()) == len(metrics)


def test_the_card_has_the_score_of_the_whole_split(run: Run, tmp_path: Path) -> None:
    assert run("train", "book.txt", "--out", "r", "--steps", "4", "--hidden-size", "4").code == 0
    best = RunDirectory(Path("r")).read_best()
    assert run("export", "r", "--format", "hub", "--license", "cc-by-4.0").code == 0
    data, page = card(Path("r-hub"))
    result = data["model-index"][0]["results"][0]
    metrics = {one["type"]: one["value"] for one in result["metrics"]}
    assert metrics["nats_per_character"] == best["score"]["nats_per_character"]
    assert (data["license"], result["dataset"]["split"]) == ("cc-by-4.0", "validation")
    assert f"protocol: {best['score']['protocol']}." in page
    facts = [json.loads(run("info", place, "--json").out) for place in ("r", "r-hub")]
    for key in ("score", "best", "parameters", "vocabulary", "step"):
        shown = [fact[key] or {} for fact in facts]
        assert shown[1].items() <= shown[0].items() if isinstance(shown[0], dict) else True
    assert facts[1]["score"]["nats_per_character"] == facts[0]["score"]["nats_per_character"]


@pytest.mark.parametrize(
    ("sources", "licence"),
    [
        (["wikitext-2", "wikitext-103:test"], "CC BY-SA 3.0 (Wikipedia)"),
        (["/x/enwik8"], "unknown; fill in"),
        (["https://x.example/enwik8"], "unknown; fill in"),
        (["shakespeare", "/x/a.txt"], "shakespeare: public domain; a.txt: unknown; fill in"),
    ],
)
def test_the_card_has_the_licence_of_a_named_corpus(
    sources: list[str], licence: str, lstm: Path, tmp_path: Path
) -> None:
    stored = find_checkpoint(str(GOLDEN / "lstm"), print)
    stored.metadata["config"]["data"]["sources"] = sources
    export(stored, tmp_path / "first")
    charrnn.export(tmp_path / "first", "hub", tmp_path / "again")
    for folder in ("first", "again"):
        assert f"- Licence of the text: {licence}\n" in card(tmp_path / folder)[1]
    changed(lstm, corpus=load_checkpoint(lstm / FILES[2]).metadata["corpus"] | {"licence": 1})
    with pytest.raises(CheckpointError, match=r"its corpus\.licence is not usable"):
        charrnn.load(lstm)


# A stranger's folder -----------------------------------------------------------------------------


def changed(folder: Path, **metadata: Any) -> None:
    """Write the weights again with other metadata, and without the copies beside them."""
    stored = load_checkpoint(folder / FILES[2])
    save_checkpoint(folder / FILES[2], stored.tensors, stored.metadata | metadata)
    for name in ("config.json", "vocabulary.json"):
        (folder / name).unlink()


def wrong_shape(folder: Path) -> None:
    stored = load_checkpoint(folder / FILES[2])
    stored.tensors["model/head.bias"] = np.zeros(7, np.float32)
    save_checkpoint(folder / FILES[2], stored.tensors, stored.metadata)


def moments(folder: Path) -> None:
    stored = load_checkpoint(folder / FILES[2])
    stored.tensors["optimizer/head.bias/exp_avg"] = stored.tensors["model/head.bias"]
    save_checkpoint(folder / FILES[2], stored.tensors, stored.metadata)


def too_few(folder: Path) -> None:
    stored = load_checkpoint(folder / FILES[2])
    del stored.tensors["model/head.bias"]
    save_checkpoint(folder / FILES[2], stored.tensors, stored.metadata)


def huge_header(folder: Path) -> None:
    with (folder / FILES[2]).open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(2 << 30)


def link_out(folder: Path) -> None:
    shutil.move(folder / FILES[2], folder.parent / "elsewhere.safetensors")
    (folder / FILES[2]).symlink_to(folder.parent / "elsewhere.safetensors")


def other_config(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text("utf-8"))
    data["config"]["model"]["run_this"] = "rm"
    (folder / "config.json").write_text(json.dumps(data), "utf-8")


def pipe_as_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def unknown_key(folder: Path) -> None:
    config = load_checkpoint(folder / FILES[2]).metadata["config"]
    changed(folder, config=config | {"auto_map": "model.py"})


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("exploded",))


def only_a_pickle(folder: Path) -> None:
    (folder / FILES[2]).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (wrong_shape, "is not one that its config implies"),
        (moments, "should hold weights alone, and has the tensor optimizer/"),
        (too_few, "that its config implies is missing"),
        (huge_header, "header of 1,073,741,824 bytes is larger"),
        (link_out, "is a link out of its folder"),
        (other_config, "differs from the config in model.safetensors"),
        (pipe_as_config, "differs from the config in model.safetensors"),
        (unknown_key, "auto_map"),
        (
            only_a_pickle,
            "has no model.safetensors, but pytorch_model.bin, which charrnn does not read",
        ),
        (lambda folder: changed(folder, score={"step": 1, "protocol": "x"}), "its score"),
        (lambda folder: changed(folder, weights_only="yes"), "its weights_only is not usable"),
    ],
)
def test_a_hostile_folder_is_refused_in_one_line(
    spoil: Any, says: str, run: Run, lstm: Path
) -> None:
    spoil(lstm)
    refused = run("sample", lstm)
    assert (refused.code, refused.out, refused.err.count("\n")) == (4, "", 1)
    assert says in refused.err, refused.err
    assert not Path("exploded").exists()


def test_files_beside_the_weights_are_not_opened(run: Run, lstm: Path) -> None:
    expected = run("sample", lstm, "--seed", "1").out
    (lstm / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    os.mkfifo(lstm / "modeling.py")
    assert run("sample", lstm, "--seed", "1").out == expected
    assert not Path("exploded").exists()


def test_links_of_the_cache_of_the_hub_are_followed(run: Run, lstm: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "m" / "snapshots" / "abc", tmp_path / "m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    shutil.move(lstm / FILES[2], blobs / "123")
    (snapshot / FILES[2]).symlink_to(Path("..", "..", "blobs", "123"))
    assert run("sample", snapshot).code == 0


# Addresses ---------------------------------------------------------------------------------------

needs_hub = pytest.mark.skipif(
    find_spec("huggingface_hub") is None, reason="needs pip install huggingface_hub"
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in for the Hub that huggingface_hub talks to, without a token."""
    from huggingface_hub import constants

    with running_hub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@needs_hub
def test_an_address_is_downloaded_once(
    run: Run, lstm: Path, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.commit("ann/harbour", files_of(lstm))
    expected = run("sample", lstm, "--seed", "1").out
    assert run("sample", "hf://ann/harbour", "--seed", "1").out == expected
    assert not [request for request in hub.requests if "README" in request]
    assert sorted(path.name for path in (cache / "hub" / "ann--harbour").iterdir()) == [
        first,
        "revisions.json",
    ]
    second = hub.commit("ann/harbour", files_of(exported("gru", lstm.parent)))
    hub.requests.clear()
    for name in ("hf://ann/harbour", f"hf://ann/harbour@{first}", "hf://ann/harbour@main"):
        assert run("sample", name, "--seed", "1").out == expected
    assert hub.requests == []
    assert "2 x GRU 8" in run("info", f"hf://ann/harbour@{second}").out
    monkeypatch.setenv("CHARRNN_HUB_REFRESH", "1")
    assert "2 x GRU 8" in run("info", "hf://ann/harbour").out
    monkeypatch.delenv("CHARRNN_HUB_REFRESH")
    assert "2 x GRU 8" in run("info", "hf://ann/harbour").out
    assert charrnn.load("hf://ann/harbour").config.model.cell == "gru"
    assert run("export", "hf://ann/harbour", "--format", "torch").code == 0
    assert Path("harbour-torch").is_dir()


@needs_hub
def test_an_address_that_cannot_be_read_is_one_sentence(
    run: Run, lstm: Path, hub: Hub, cache: Path
) -> None:
    hub.commit("ann/harbour", files_of(lstm))
    hub.commit("ann/other", {"pytorch_model.bin": b""})
    bad = files_of(lstm) | {FILES[2]: b"\x08" + bytes(20)}
    hub.commit("ann/damaged", bad)
    hub.repositories["ann/elsewhere"] = {"../../../elsewhere": files_of(lstm)}
    for name, code, says in (
        ("hf://ann/harbours", 7, "cannot download hf://ann/harbours ("),
        ("hf://ann/harbour@v2", 7, "cannot download hf://ann/harbour@v2 ("),
        ("hf://ann/other", 7, "it has no model.safetensors, so it is not a model of charrnn"),
        ("hf://ann/elsewhere", 7, "the server gives '../../../elsewhere' as a commit"),
        ("hf://ann/damaged", 4, "is not a usable checkpoint"),
        ("hf://ann", 2, "write it as hf://OWNER/NAME"),
        ("hf://ann/../etc", 2, "write it as hf://OWNER/NAME"),
        ("hf://ann/harbour@../../other", 2, "write it as hf://OWNER/NAME"),
        ("hf://datasets/ann/harbour", 2, "write it as hf://OWNER/NAME"),
        ("hf:ann/harbour", 2, "write it as hf://OWNER/NAME"),
    ):
        refused = run("sample", name)
        assert (refused.code, refused.out, refused.err.count("\n")) == (code, "", 1)
        assert says in refused.err, refused.err
    leftovers = [path.name for path in (cache / "hub").rglob(".writing-*")]
    assert leftovers == []


@needs_hub
def test_without_a_network_or_the_package_an_address_is_one_sentence(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused = run("sample", "hf://ann/harbour")
    assert (refused.code, refused.err.count("\n")) == (7, 1)
    assert "check the address and the network, or download model.safetensors in a b" in refused.err
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused = run("sample", "hf://ann/harbour")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert (
        "needs the package huggingface_hub; run pip install 'charrnn-trainer[hub]'" in refused.err
    )


# Uploads -----------------------------------------------------------------------------------------


@needs_hub
def test_a_folder_is_uploaded_only_when_asked(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("export", GOLDEN / "lstm", "--format", "hub").code == 0
    assert hub.requests == []
    done = run("export", GOLDEN / "lstm", "--format", "hub", "--out", "m", "--push", "ann/harbour")
    assert (done.code, done.err) == (0, "uploaded to ann/harbour; see hf://ann/harbour\n")
    assert hub.private == ["ann/harbour"]
    (files,) = hub.repositories["ann/harbour"].values()
    assert files == files_of(Path("m"))
    assert "charrnn sample hf://ann/harbour" in files["README.md"].decode()
    assert run("sample", "hf://ann/harbour", "--seed", "1").code == 0


@needs_hub
def test_an_upload_that_cannot_be_made_is_one_sentence(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = ("export", GOLDEN / "lstm", "--format", "hub", "--out", "m", "--push")
    refused = run(*push, "ann/harbour")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "there is no token for the Hub; run hf auth login, or set HF_TOKEN" in refused.err
    refused = run(*push, "harbour")
    assert (refused.code, "'harbour' is not the name of a repository" in refused.err) == (2, True)
    assert (hub.requests, Path("m").exists()) == ([], False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused = run(*push, "ann/harbour")
    assert (refused.code, refused.err.count("\n")) == (7, 1)
    assert "m is complete, so you can upload it by hand with hf upload ann/harbour m" in refused.err
    assert sorted(path.name for path in Path("m").iterdir()) == FILES
    other = run("export", GOLDEN / "lstm", "--format", "torch", "--push", "ann/harbour")
    assert (other.code, "the format torch has no license and is not up" in other.err) == (2, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused = run(*push[:-2], "n", "--push", "ann/harbour")
    assert (refused.code, "needs the package huggingface_hub" in refused.err) == (2, True)
