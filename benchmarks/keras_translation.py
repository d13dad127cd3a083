"""Train the character-level translator of Keras's own example, to compare ours with it.

`KERAS_BACKEND=jax python benchmarks/keras_translation.py PAIRS [--epochs 100] [--pairs 10000]`

The recipe (keras.io, "Character-level recurrent sequence-to-sequence model"): one-hot characters;
an LSTM of 256 units reads the source; a second LSTM starts from its final states, with a softmax
over its outputs; RMSprop with its default settings, batches of 64, the last fifth
for validation. A target starts with a tab and ends with a newline. Sources and targets are padded
with spaces to the longest, and padding counts as a target like any other character.

Two validation losses are printed for each epoch. `padded` is Keras's own: the mean over all
positions, padding included. `masked` is nats per real character, the end of each target included,
as charrnn reports. For a model that predicts padding perfectly, `padded` is `masked` times the
share of real positions, which the first printed line gives.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

START, END, FILL = "\t", "\n", " "
LATENT, BATCH, VALIDATION = 256, 64, 0.2

Array = NDArray[Any]


def read(path: Path, count: int) -> tuple[list[str], list[str]]:
    """Return the sources and targets of the first rows, targets with their start and end."""
    rows = [line.split("\t")[:2] for line in path.read_text("utf-8").split("\n")[:count] if line]
    return [row[0] for row in rows], [START + row[1] + END for row in rows]


def one_hot(texts: list[str]) -> tuple[Array, list[str]]:
    """Return texts as one-hot vectors (N, T, V), padded to the longest, and their characters."""
    characters = sorted({FILL}.union(*texts))
    place = {character: i for i, character in enumerate(characters)}
    longest = max(map(len, texts))
    ids = np.array([[place[c] for c in text.ljust(longest, FILL)] for text in texts])
    return np.eye(len(characters), dtype=np.float32)[ids], characters


def network(source_size: int, target_size: int) -> Any:
    """Build encoder and decoder, with a softmax over the next character of a target."""
    import keras
    from keras import layers

    source = keras.Input((None, source_size))
    _, *states = layers.LSTM(LATENT, return_state=True)(source)
    target = keras.Input((None, target_size))
    outputs = layers.LSTM(LATENT, return_sequences=True)(target, initial_state=states)
    chances = layers.Dense(target_size, activation="softmax")(outputs)
    model = keras.Model([source, target], chances)
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy")
    return model


def main() -> None:
    """Train, and print a line for each epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--pairs", dest="count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    import keras

    keras.utils.set_random_seed(arguments.seed)
    source_texts, target_texts = read(arguments.pairs, arguments.count)
    sources, source_characters = one_hot(source_texts)
    inputs, target_characters = one_hot(target_texts)
    # The next characters: the target without its start, and one more space.
    labels = np.roll(inputs, -1, axis=1)
    labels[:, -1] = np.eye(len(target_characters))[target_characters.index(FILL)]
    first = int(len(sources) * (1 - VALIDATION))
    lengths = np.array([len(text) - 1 for text in target_texts])
    real = (np.arange(inputs.shape[1]) < lengths[:, None])[first:]
    print(
        f"keras {keras.__version__} on {keras.backend.backend()}: {first:,} pairs for training, "
        f"{len(sources) - first:,} for validation, {len(source_characters)} and "
        f"{len(target_characters)} characters; {real.mean():.4f} of the positions are real"
    )
    model = network(len(source_characters), len(target_characters))
    best = {"padded": (np.inf, 0), "masked": (np.inf, 0)}
    held_out = [sources[first:], inputs[first:]]
    wanted = labels[first:].argmax(-1)[:, :, None]
    for epoch in range(1, arguments.epochs + 1):
        began = time.perf_counter()
        done = model.fit(
            [sources[:first], inputs[:first]],
            labels[:first],
            batch_size=BATCH,
            epochs=1,
            validation_data=(held_out, labels[first:]),
            validation_batch_size=BATCH,
            verbose=0,
        )
        chances = model.predict(held_out, batch_size=BATCH, verbose=0)
        nats = -np.log(np.maximum(np.take_along_axis(chances, wanted, 2)[:, :, 0], 1e-7))
        losses = {
            "padded": done.history["val_loss"][0],
            "masked": float(nats[real].mean(dtype=np.float64)),
        }
        # Keras's own loss must agree with the loss computed from the probabilities.
        assert abs(losses["padded"] - nats.mean(dtype=np.float64)) < 1e-3 * losses["padded"]
        for name, loss in losses.items():
            best[name] = min(best[name], (loss, epoch))
        print(
            f"epoch {epoch:3}  train {done.history['loss'][0]:.4f}  "
            f"validation padded {losses['padded']:.4f}  masked {losses['masked']:.4f}  "
            f"{time.perf_counter() - began:.1f}s",
            flush=True,
        )
    for name, (loss, epoch) in best.items():
        print(f"best {name} {loss:.4f} at epoch {epoch}")


if __name__ == "__main__":
    main()
