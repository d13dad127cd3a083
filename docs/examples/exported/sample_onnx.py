"""Sample with ONNX Runtime: `python sample_onnx.py MODEL.onnx PROMPT LENGTH TEMPERATURE SEED`."""

import json
import re
import sys

import numpy as np
import onnxruntime

prompt, length, temperature, seed = sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
session = onnxruntime.InferenceSession(sys.argv[1])
names = [one.name for one in session.get_inputs()]
state = [np.zeros((1, one.shape[1]), np.float32) for one in session.get_inputs()[1:]]
about = session.get_modelmeta().custom_metadata_map
vocabulary, sampling = json.loads(about["vocabulary"]), json.loads(about["sampling"])
symbols, code = vocabulary["symbols"], "latin-1" if vocabulary["kind"] == "byte" else "utf-8"
units = re.findall(vocabulary["pattern"], prompt.encode().decode(code))
ids = [symbols.index(unit) if unit in symbols else vocabulary["unknown"] for unit in units]
ids, text = (ids if ids and sampling["end"] is None else [sampling["first"], *ids]), ""
for i in range(1 - len(ids), length):  # The prompt is read up to 0; from 0 on symbols are drawn.
    inputs = [np.array([ids[min(i, 0) - 1]]), *state]
    logits, *state = session.run(None, dict(zip(names, inputs, strict=True)))
    if i >= 0 and (i == 0 or ids[-1] != sampling["end"]):
        logits[0, sampling["unwritten"]] = -np.inf
        weights = np.exp((logits[0].astype(float) - logits.max()) / (temperature or 1)).cumsum()
        draws = np.random.Philox(key=[int(seed), 0], counter=[0, i // 256, 0, 0])
        threshold = np.random.Generator(draws).random(256)[i % 256] * weights[-1]
        ids.append(int((weights <= threshold).sum() if temperature else logits.argmax()))
        text += symbols[ids[-1]]
print(prompt + text.encode(code).decode("utf-8", "replace"))
