"""The golden runs: how each is trained, and the commands that are run on it half-way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = 120
STOP = 101  # the step of the checkpoint that is kept: within an epoch and between two evaluations

SMALL: dict[str, Any] = {
    "model.hidden_size": 8,
    "model.embedding_size": 8,
    "model.dropout": 0.2,
    "model.input_dropout": 0.1,
    "model.output_dropout": 0.2,
    "training.steps": STEPS,
    "training.warmup_steps": 10,
    "training.learning_rate": 0.02,
    "training.seed": 5,
    "evaluation.every": 110,
    "evaluation.sample_length": 8,
    "checkpoints.every": STOP,
    "checkpoints.keep_last": 100,
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
    "processes": 1,
}
ON_TEXT: dict[str, Any] = {
    "data.split": [0.8, 0.2],
    "training.batch_size": 4,
    "training.window": 6,
    "evaluation.lanes": 2,
    "evaluation.warmup": 5,
}
ON_EXAMPLES: dict[str, Any] = {
    "data.split": [0.7, 0.3],
    "model.layers": 1,
    "training.batch_size": 7,
}
OF_WORDS: dict[str, Any] = {
    "data.vocabulary": "word",
    "model.character_embedding_size": 6,
    "model.character_hidden_size": 11,
}
# `{run}` is the run, `{data}` the flags that say where its texts are.
GREEDY = "sample {run} --length 40 --temperature 0 --prompt The"
DRAWN = "sample {run} --length 40 --num-samples 2 --top-p 0.95 --seed 7 --json"
VALIDATION = "eval {run} --json {data}"
DYNAMIC = "eval {run} --json --dynamic --dynamic-rate 0.01 --dynamic-decay 0.001 {data}"
CHOSEN = "eval {run} --json --dynamic --mix ngram --temperature auto {data}"
MIXED = "eval {run} --json --mix ngram --temperature 0.9 {data}"
LETTERS = "eval {run} texts/line.txt --per-character --unknown skip"
WRITING = (GREEDY, DRAWN, VALIDATION)


@dataclass(frozen=True)
class Case:
    """One golden run."""

    settings: Mapping[str, Any]
    asked: Sequence[str | tuple[str, ...]]
    """Command lines: a text is split at white space, a tuple holds the words themselves."""
    data: Sequence[str] = ("texts/harbour.txt",)
    validation: Sequence[str] = ()
    task: str = "language_model"

    def training(self, run: str) -> list[str]:
        """Return the command line that trains the whole run."""
        sets = [f"{key}={_plain(value)}" for key, value in self.settings.items()]
        flags = [word for one in sets for word in ("--set", one)]
        separate = [word for text in self.validation for word in ("--validation", text)]
        return ["train", *self.data, *separate, "--task", self.task, "--out", run, *flags]

    def resuming(self, run: str) -> list[str]:
        """Return the command line that resumes the stopped run."""
        return ["resume", run, *self._texts()]

    def commands(self, run: str) -> Iterator[list[str]]:
        """Return the command lines that are run on the stopped run."""
        for command in self.asked:
            words = command.split() if isinstance(command, str) else command
            filled: list[str] = []
            for word in words:
                filled += self._texts() if word == "{data}" else [word.replace("{run}", run)]
            yield filled

    def _texts(self) -> list[str]:
        named = (("--data", self.data), ("--validation", self.validation))
        return [word for flag, texts in named for text in texts for word in (flag, text)]


def _plain(value: Any) -> str:
    """Return a value as YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def _text(
    *more: str | tuple[str, ...],
    asked: Sequence[str | tuple[str, ...]] = WRITING,
    data: Sequence[str] = ("texts/harbour.txt",),
    validation: Sequence[str] = (),
    **settings: Any,
) -> Case:
    """Return the case of a language model."""
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return Case(SMALL | ON_TEXT | values, (*asked, *more), data, validation)


def _examples(
    task: str, data: str, *asked: str | tuple[str, ...], validation: str = "", **settings: Any
) -> Case:
    """Return the case of a model on examples."""
    values = {key.replace("__", "."): value for key, value in settings.items()}
    separate = (validation,) if validation else ()
    return Case(SMALL | ON_EXAMPLES | values, (VALIDATION, *asked), (data,), separate, task)


CLASSES = (
    ("predict", "{run}", "the bell and the waves", "no wind, no sound", "gravel"),
    ("predict", "{run}", "--json", "the bell and the waves", "a flat grey sea"),
)
TAGS = (
    ("predict", "{run}", "The boats sleep .", "Renée rows to Bergen ."),
    ("predict", "{run}", "--json", "A grey whale counts boats ."),
)
FEW = [0.9, 0.1]  # few pairs for validation: translating them all takes most of the time
TRANSLATIONS = (
    ("predict", "{run}", "the boat sings.", "Renée waits tonight."),
    ("predict", "{run}", "--json", "the lamp turns."),
    ("predict", "{run}", "--json", "--beam", "3", "the gull comes back.", "the boy waits."),
)
WEATHER, PAIRS, SENTENCES = "texts/weather.tsv", "texts/pairs.tsv", "texts/sentences.conllu"

CASES: dict[str, Case] = {
    # Every cell.
    "vanilla-tanh": _text(
        LETTERS, model__cell="vanilla", model__weight_dropout=0.2, training__optimizer="rmsprop"
    ),
    "vanilla-relu": _text(
        model__cell="vanilla",
        model__activation="relu",
        model__weight_dropout=0.1,
        training__optimizer="sgd",
        training__learning_rate=0.3,
        training__schedule="linear",
    ),
    "lstm": _text(
        DYNAMIC,
        CHOSEN,
        LETTERS,
        "sample {run} --length 30 --seed 3 --top-k 9 --save-state state.safetensors",
        "sample {run} --length 30 --load-state state.safetensors",
        "sample {run} --length 30 --seed 3 --min-p 0.05 --adapt-to texts/harbour.txt",
        "eval {run} --json --novelty texts/line.txt {data}",
        "sample {run} --length 30 --seed 3 --last --stop e",
        model__cell="lstm",
        model__weight_dropout=0.3,
        model__embedding_dropout=0.1,
        model__locked_dropout=True,
        evaluation__every=15,
    ),
    "gru": _text(
        DYNAMIC,
        LETTERS,
        "eval {run} --json --compare {data}",
        model__cell="gru",
        model__weight_dropout=0.2,
        training__optimizer="adam",
    ),
    "rhn": _text(
        DYNAMIC,
        model__cell="rhn",
        model__recurrence_depth=3,
        model__weight_dropout=0.2,
        model__locked_dropout=True,
    ),
    "mlstm": _text(
        LETTERS,
        model__cell="mlstm",
        model__weight_dropout=0.2,
        model__zoneout=0.1,
        model__zoneout_cell=0.1,
    ),
    "mingru": _text(DYNAMIC, LETTERS, model__cell="mingru", model__embedding_dropout=0.1),
    "minlstm": _text(LETTERS, model__cell="minlstm", model__locked_dropout=True),
    # Zoneout, and layer normalisation.
    "lstm-zoneout": _text(
        model__cell="lstm", model__zoneout=0.1, model__zoneout_cell=0.2, model__weight_dropout=0.1
    ),
    "gru-zoneout": _text(model__cell="gru", model__zoneout=0.2),
    "vanilla-norm": _text(
        LETTERS, model__cell="vanilla", model__layer_norm=True, model__zoneout=0.1
    ),
    "lstm-norm": _text(
        LETTERS,
        model__cell="lstm",
        model__layer_norm=True,
        model__weight_dropout=0.2,
        model__zoneout=0.1,
        model__zoneout_cell=0.1,
    ),
    "gru-norm": _text(LETTERS, model__cell="gru", model__layer_norm=True, model__zoneout=0.1),
    # Embeddings, connections and vocabularies.
    "no-skip": _text(model__skip_connections=False, model__hidden_size=[8, 12]),
    "tied": _text(
        LETTERS,
        model__tie_embeddings=True,
        model__skip_connections=False,
        model__embedding_dropout=0.1,
        training__average=0.9,
    ),
    "one-hot": _text(LETTERS, model__cell="gru", model__embedding_size="one_hot", model__layers=1),
    "byte": _text(LETTERS, MIXED, data__vocabulary="byte", model__cell="gru", model__layers=1),
    "word": _text(
        DYNAMIC,
        LETTERS,
        asked=(GREEDY.replace("The", "the"), DRAWN, VALIDATION),
        data__vocabulary="word",
        data__minimum_count=2,
        training__batch_size=2,
        training__window=3,
    ),
    "words-recurrent": _text(
        LETTERS,
        asked=(GREEDY.replace("The", "the"), DRAWN, VALIDATION),
        **OF_WORDS,
        model__words="recurrent",
        model__layers=1,
        training__batch_size=2,
        training__window=3,
    ),
    "words-convolving": _text(
        asked=(GREEDY.replace("The", "the"), DRAWN, VALIDATION),
        **OF_WORDS,
        model__words="convolving",
        model__layers=1,
        training__batch_size=2,
        training__window=3,
    ),
    "words-beside": _text(
        asked=(GREEDY.replace("The", "the"), DRAWN, VALIDATION),
        **OF_WORDS,
        model__words=["lookup", "recurrent", "convolving"],
        model__cell="gru",
        model__layers=1,
        training__batch_size=2,
        training__window=3,
        training__average=0.9,
    ),
    # How it is trained.
    "average": _text(
        DYNAMIC,
        LETTERS,
        validation=("texts/market.txt",),
        training__average=0.95,
        evaluation__every=10,
        training__schedule="plateau",
        training__plateau_patience=1,
        training__learning_rate=0.3,
    ),
    "random-windows": _text(
        model__cell="gru",
        training__random_windows=True,
        training__reset_probability=0.1,
        training__schedule="plateau",
        training__plateau_patience=1,
        training__plateau_factor=0.9,
        training__learning_rate=0.1,
        evaluation__every=5,
    ),
    "no-carry": _text(training__carry_state=False, training__schedule="constant"),
    "documents": _text(
        data=("texts/harbour.txt", "texts/market.txt"),
        data__reset_state_at_documents=True,
        data__split=[0.7, 0.2, 0.1],
        asked=(DRAWN, VALIDATION, "eval {run} --json --split test {data}"),
    ),
    # The other tasks.
    "classes": _examples("classification", WEATHER, *CLASSES, model__cell="lstm", model__layers=2),
    "classes-last": _examples(
        "classification",
        "texts/weather",
        *CLASSES,
        model__cell="gru",
        model__bidirectional=False,
        model__pooling="last",
        model__weight_dropout=0.2,
        model__locked_dropout=True,
    ),
    "classes-words": _examples(
        "classification",
        WEATHER,
        *CLASSES,
        **OF_WORDS,
        model__words=["lookup", "convolving"],
        model__cell="mingru",
        model__pooling="mean",
        training__average=0.9,
    ),
    "writer": _examples(
        "generation",
        WEATHER,
        "sample {run} --length 30 --label fog --num-samples 3 --seed 2 --json",
        "sample {run} --length 30 --num-samples 3 --seed 2",
        "sample {run} --length 30 --label storm --temperature 0 --prompt the",
        model__cell="gru",
        model__weight_dropout=0.2,
    ),
    "writer-words": _examples(
        "generation",
        WEATHER,
        "sample {run} --length 8 --label calm --num-samples 3 --seed 2 --json",
        data__vocabulary="word",
        model__cell="lstm",
        model__layer_norm=True,
        model__zoneout=0.1,
    ),
    "tags": _examples(
        "tagging",
        SENTENCES,
        *TAGS,
        model__character_embedding_size=6,
        model__character_hidden_size=11,
        model__layers=2,
        training__average=0.9,
        training__batch_size=4,
    ),
    "tags-lookup": _examples(
        "tagging", SENTENCES, *TAGS, model__words="lookup", training__batch_size=4
    ),
    "tags-convolving": _examples(
        "tagging",
        SENTENCES,
        *TAGS,
        model__words="convolving",
        model__cell="gru",
        model__bidirectional=False,
        model__character_embedding_size=6,
        model__character_hidden_size=11,
        training__batch_size=4,
    ),
    "pairs-general": _examples(
        "translation",
        PAIRS,
        *TRANSLATIONS,
        model__cell="gru",
        model__weight_dropout=0.1,
        data__split=FEW,
    ),
    "pairs-additive": _examples(
        "translation",
        PAIRS,
        *TRANSLATIONS,
        model__cell="lstm",
        model__layers=2,
        model__attention="additive",
        data__split=FEW,
        model__hidden_size=6,
    ),
    "pairs-dot": _examples(
        "translation",
        PAIRS,
        *TRANSLATIONS,
        model__cell="gru",
        model__attention="dot",
        data__split=FEW,
        model__bidirectional=False,
        data__split_by="position",
    ),
    "pairs-none": _examples(
        "translation",
        PAIRS,
        *TRANSLATIONS,
        model__cell="lstm",
        model__attention="none",
        data__split=FEW,
        data__vocabulary="word",
    ),
}
