"""Names that other libraries and papers use for our keys and values, for "did you mean"."""

from __future__ import annotations

_KEYS = {
    "data.sources": "data corpus dataset file files input path text texts",
    "data.validation": "dev val valid validation_data",
    "data.test": "test_data",
    "data.split": "validation_split train_split fractions",
    "data.vocabulary": "level tokenizer tokens vocab",
    "data.minimum_count": "min_count min_freq minimum_frequency",
    "data.separator": "delimiter document_separator end_of_text eos eot",
    "data.newlines": "eol line_ends line_endings",
    "data.normalize": "nfc normalisation unicode unicode_normalization",
    "data.text_column": "text_col text_field sentence_column",
    "data.label_column": "class_column label_col label_field target_field",
    "data.bad_rows": "error_bad_lines on_bad_lines skip_bad_rows",
    "data.maximum_length": "max_length max_chars truncate",
    "model.cell": "arch architecture cell_type model_type rnn rnn_cell rnn_type",
    "model.layers": "depth layer n_layer n_layers nlayers num_layer num_layers",
    "model.hidden_size": "dim hidden hidden_dim hidden_units n_hidden nhid num_hidden rnn_size "
    "size state_size units width",
    "model.parameters": "n_params num_parameters num_params params",
    "model.embedding_size": "embed embed_dim embed_size embedding embedding_dim emsize n_embd",
    "model.dropout": "drop dropout_rate p_dropout",
    "model.tie_embeddings": "tie tied tie_weights tied_weights weight_tying",
    "model.skip_connections": "residual skip",
    "model.layer_norm": "layernorm ln normalization",
    "model.recurrence_depth": "micro_depth rhn_depth",
    "model.bidirectional": "bidir bi_directional both_directions",
    "training.steps": "iterations iters max_iter max_iters max_steps num_steps",
    "training.epochs": "epoch max_epochs n_epochs num_epochs passes",
    "training.max_time": "budget duration time time_limit wall_clock",
    "training.batch_size": "batch batchsize bs minibatch",
    "training.class_weights": "class_weight balanced",
    "training.window": "block_size bptt chunk_len context_length max_len seq_len seq_length "
    "sequence_length timesteps unroll",
    "training.carry_state": "stateful",
    "training.optimizer": "opt optim optimiser",
    "training.learning_rate": "alpha eta lr rate step_size",
    "training.schedule": "lr_decay lr_schedule lr_scheduler scheduler",
    "training.warmup_steps": "warmup_iters",
    "training.patience": "early_stopping early_stopping_patience",
    "training.weight_decay": "decay l2 wd",
    "training.average": "ema ema_decay polyak swa",
    "training.clip": "clip_norm clipnorm clipping grad_clip gradient_clip gradient_clipping "
    "max_grad_norm max_norm",
    "training.seed": "manual_seed random_seed random_state",
    "evaluation.every": "eval_every eval_interval eval_steps eval_val_every evaluate_every",
    "evaluation.sample_length": "sample sample_len",
    "checkpoints.every": "checkpoint_every save_every save_interval save_steps",
    "checkpoints.keep_last": "keep max_checkpoints max_to_keep save_total_limit",
    "device": "accelerator cuda gpu",
    "precision": "amp dtype fp16 mixed_precision",
    "threads": "n_threads num_threads",
    "processes": "num_processes num_workers workers",
    "logging": "log logger loggers tb",
}
KEYS = {name: key for key, names in _KEYS.items() for name in names.split()}
"""Usual names of keys, without a section, and the dotted key that each of them means here."""

_VALUES = {
    "task": {
        "language_model": "language_modeling language_modelling lm",
        "classification": "classifier classify sentiment",
        "generation": "conditional generate",
        "tagging": "ner pos sequence_labeling tagger",
        "translation": "encoder_decoder nmt seq2seq translate",
    },
    "data.newlines": {"join": "auto lf translate universal unix", "keep": "none preserve raw"},
    "data.normalize": {"nfc": "auto nfkc", "none": "keep raw"},
    "model.cell": {
        "vanilla": "elman plain rnn simple simple_rnn simplernn",
        "rhn": "highway",
        "mlstm": "multiplicative",
    },
    "data.vocabulary": {
        "character": "char chars characters letter",
        "byte": "bytes utf-8",
        "word": "token words",
    },
    "model.embedding_size": {"one_hot": "none onehot one-hot"},
    "model.attention": {"additive": "bahdanau mlp", "general": "luong", "dot": "dot_product"},
    "training.optimizer": {"rmsprop": "rms", "sgd": "momentum nesterov"},
    "training.schedule": {"constant": "none off", "plateau": "reduce_on_plateau"},
    "device": {"cuda": "gpu", "mps": "metal"},
    "precision": {"bfloat16": "bf16 mixed", "float32": "float fp32 full"},
}
VALUES = {
    key: {name: value for value, names in usual.items() for name in names.split()}
    for key, usual in _VALUES.items()
}
"""For each key, usual names of its values and the value that each of them means here."""
