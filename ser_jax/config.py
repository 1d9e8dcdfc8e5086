"""Every configuration key, with its unit and its source. No default lives anywhere else.

[P] = the paper says it (Luo, Zou and Huang, Interspeech 2018); [D] = the paper is silent and this project decides.
Files in `configs/` call `get_config()` and override; `--config.KEY=VALUE` overrides them.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from ser_jax.errors import UserError

Config = Any  # An ml_collections.ConfigDict; its attributes are dynamic, so type checkers are told nothing.

CRNN_SYSTEMS = ("plain_crnn", "hsf_crnn", "multi_crnn")  # the systems of the paper
NEURAL_SYSTEMS = (*CRNN_SYSTEMS, "end2you")  # share one train step
SYSTEMS = (*NEURAL_SYSTEMS, "svm")

DEFAULT_MANIFEST = "manifest.csv"

# Keys that change neither batches nor parameters nor scores: a run directory may be resumed with other values of them.
NEUTRAL_KEYS = (
    "corpus.root",
    "features.shards",
    "features.store",
    "features.workers",
    "svm.workers",
    "training.checkpoint_seconds",
    "training.compilation_cache",
    "training.devices",
    "training.kernels",
    "training.memory_share",
    "training.preemption_exit_code",
    "training.recurrence",
    "training.residence",
)


def get_config() -> Config:
    """Returns the base configuration: Multi-CRNN on the built-in demo corpus, locked."""
    c = ml_collections.ConfigDict()
    c.system = "multi_crnn"  # plain_crnn | hsf_crnn | multi_crnn | end2you | svm

    c.corpus = corpus = ml_collections.ConfigDict()
    corpus.name = "demo"  # audformat | demo | emobox | emodb | emotass | iemocap | manifest
    corpus.root = ""  # folder of the release, or audb:NAME==VERSION; empty for the demo corpus: the cache folder
    # Where the labels stand. manifest: the list, relative to the root. emobox: the folder of one dataset's lists, such
    # as data/emodb. audformat: table/column; the default stands for the column of the scheme "emotion".
    corpus.manifest = DEFAULT_MANIFEST  # path or table/column
    corpus.allow_missing = (
        False  # go on without listed recordings that are not there (the protocol is then "+modified")
    )

    c.protocol = protocol = ml_collections.ConfigDict()
    protocol.name = "auto"  # a named protocol; auto: the corpus's default
    protocol.seeds = 1  # how many trainings of every fold [D]
    protocol.seed = 0  # the first seed
    protocol.ensemble = 1  # trainings of every seed; their mean probabilities are its prediction [D]
    protocol.folds = ""  # names of the folds to train, separated by commas; empty: all

    c.features = features = ml_collections.ConfigDict()
    features.sample_rate = 16000  # Hz [P]
    features.window_seconds = 0.025  # s, symmetric Hamming [P]
    features.hop_seconds = 0.010  # s [P]
    features.fft = 1024  # points [P]
    features.bands = 40  # log-mel bands [P]
    features.low_hz = 0.0  # Hz [D]
    features.high_hz = 8000.0  # Hz [D]
    features.floor = 1e-10  # smallest band energy before the logarithm [D]
    features.max_seconds = 120.0  # s, longest utterance that is accepted
    features.max_bad_share = 0.05  # largest share of unusable recordings that training puts up with
    features.store = ""  # folder of cached features; empty: the cache folder
    features.shards = ""  # folder of record files, where features are larger than memory; empty: the cache folder
    features.workers = 0  # processes that extract features; 0: one per core

    c.model = model = ml_collections.ConfigDict()
    model.form = "fast"  # fast | literal: CNN once per utterance, or on every segment as the paper has it
    model.short_window = 30  # frames [P]
    model.short_hop = 20  # frames: overlap 10 [P]
    model.long_window = 50  # frames, second channel of Multi-CRNN [P]
    model.long_hop = 25  # frames: overlap 25 [P]
    model.filters = 30  # filters of both convolutions [P]
    model.widths = (5, 3)  # widths of the convolutions: frames, pooled frames [P]
    model.lstm_units = 128  # units of the LSTM [P]
    model.activation = "sigmoid"  # sigmoid | relu: of all dense layers [P]
    model.dropout = 0.0  # share of the inputs of dense layers that training sets to 0 [D]
    model.plain_head = (128, 32)  # dense layers of Plain CRNN [P]
    model.hsf_crnn_dense = (128,)  # HSF-CRNN: dense layers after the CRNN [P]
    model.hsf_dense = (1024, 520, 128)  # HSF-CRNN: dense layers after the functionals [P]
    model.hsf_dropout = 0.0  # HSF-CRNN: share of the functionals that training sets to 0 [D]
    model.hsf_head = (32,)  # HSF-CRNN: dense layers of the joint representation [P]
    model.multi_short_dense = (128, 128)  # Multi-CRNN: dense layers after the short CRNN [P]
    model.multi_head = (128,)  # Multi-CRNN: dense layers of the joint representation [P]

    # The end-to-end baseline, End2You ([20] in the paper's table 2).
    model.end2you_chunk = 640  # samples: 40 ms, one step of the recurrent net
    model.end2you_dropout = 0.5  # share of the samples that training sets to 0; 0: none
    model.end2you_filters = 40  # filters of both convolutions
    model.end2you_widths = (20, 40)  # widths of the convolutions: samples, pooled samples
    model.end2you_pools = (2, 10)  # max-pool over time after the first, across channels after the second
    model.end2you_cell = "lstm"  # lstm | gru: the paper's word, and what the published code could run
    model.end2you_layers = 2  # recurrent layers
    model.end2you_units = 128  # units of each

    c.training = training = ml_collections.ConfigDict()
    training.epochs = 100  # at most [D]
    training.batch_size = 32  # utterances [D]
    training.learning_rate = 1e-3  # Adam [D]
    training.clip_norm = 1.0  # global norm of the gradient [D]
    training.weight_decay = 0.0  # AdamW: share of a kernel that a step takes off, in units of the learning rate [D]
    training.ema = 0.0  # decay of a running average of the parameters, which then is the model; 0: none [D]
    training.label_smoothing = 0.0  # share of the truth that is spread over all classes [D]
    training.class_weights = "none"  # none | balanced: weight of a class = utterances / (classes · its utterances) [D]
    training.patience = 0  # epochs without a better validation UA before a run stops; 0: never [D]
    training.refit = "none"  # none | train+validation: with the epoch chosen, train anew for as many on both parts [D]
    training.precision = "float32"  # of matrix products: float32 | tf32 (GPU, TPU) | bf16 (factors; sums in float32)
    training.dispatch = "auto"  # auto | step | chunk: hand over every step by itself (CPU) or many (accelerators)
    training.kernels = "auto"  # auto | xla | native: on CPUs compiled once by the machine's C++ compiler, else XLA's
    training.recurrence = "auto"  # auto | scan | pallas: on GPUs XLA's loop over the steps or one program of our own
    # Streamed: padded arrays are read and padded batch by batch; batches and, on a CPU, parameters stay the same.
    training.residence = "auto"  # auto | resident | streamed: by size | in memory | from record files on disk
    training.memory_share = 0.4  # share of the memory of device or host that resident arrays may take, with auto [D]
    training.shapes = 0  # at most this many length buckets (compiled shapes); 0: 6, from 2000 utterances on 20
    training.devices = 0  # devices to use; 0: all (on a CPU: one virtual device per core)
    training.group = 0  # runs trained at once; 0: one per CPU device, all of them on an accelerator
    training.checkpoint_seconds = 120.0  # s between checkpoints of unfinished runs
    training.compilation_cache = True  # keep compiled programs in the cache folder
    training.preemption_exit_code = 42  # exit code after SIGTERM and a saved checkpoint

    c.augment = augment = ml_collections.ConfigDict()  # how training varies its batches; scoring never does [D]
    augment.speed = 0.0  # largest change of speed, pitch and tempo together: 0.1 is 0.9 to 1.1
    augment.gain_db = 0.0  # dB, largest change of loudness
    augment.time_masks = 0  # masks over time (SpecAugment)
    augment.time_mask_frames = 0  # frames, the longest of them
    augment.band_masks = 0  # masks over log-mel bands
    augment.band_mask_bands = 0  # bands, the widest of them
    augment.hsf_noise = 0.0  # standard deviations of Gaussian noise on the functionals

    c.svm = svm = ml_collections.ConfigDict()  # the baseline; of `training` it heeds class_weights and refit
    svm.c = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # C, the cost of errors; the best on the validation part is kept [D]
    svm.tolerance = 1e-4  # spread of the projected gradient at which a fit has converged; scikit-learn's default [D]
    svm.iterations = 10_000  # passes over the training part after which a fit ends unconverged [D]
    svm.workers = 0  # processes that fit, about 1.2 GB each at the size of IEMOCAP; 0: one per core
    return c.lock()


def from_json(values: Mapping[str, Any]) -> Config:
    """Returns the configuration that a run directory's `config.json` describes.

    Args:
      values: The parsed file.

    Raises:
      UserError: If its keys are not those of this version, or a value is of another type.
    """
    config = get_config()
    _fill(config, values, "")
    return config


def _fill(config: Config, values: Mapping[str, Any], prefix: str) -> None:
    # A run that was made before a neutral key was thought of is as good as any other.
    new = {name for name in set(config.keys()) - set(values.keys()) if prefix + name in NEUTRAL_KEYS}
    different = sorted((set(config.keys()) ^ set(values.keys())) - new)
    if different:
        names = ", ".join(prefix + name for name in different)
        raise UserError(f"the run was made by a version with other configuration keys ({names}); train it again")
    for name, value in values.items():
        default = config[name]
        if isinstance(default, ml_collections.ConfigDict) and isinstance(value, Mapping):
            _fill(default, value, f"{prefix}{name}.")
        elif _fits(value, default):
            config[name] = tuple(value) if isinstance(value, list) else value
        else:
            raise UserError(f"the run's configuration is damaged ({prefix}{name}={value!r:.40}); train it again")


def _fits(value: Any, default: Any) -> bool:
    """Returns whether a value from JSON has the type of the default."""
    if isinstance(default, tuple):
        return isinstance(value, list) and all(_fits(item, next(iter(default), "")) for item in value)
    return type(value) is type(default) or isinstance(default, float) and type(value) is int
