"""Every configuration key, with its unit and its source. No default lives anywhere else.

[P] = the paper says it (Luo, Zou and Huang, Interspeech 2018); [D] = the paper is silent and this
project decides. Files in `configs/` call `get_config()` and override; `--config.KEY=VALUE`
overrides them.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from ser_jax.runtime.errors import UserError

# An ml_collections.ConfigDict; its attributes are dynamic, so type checkers know nothing of them.
Config = Any

DEFAULT_MANIFEST = "manifest.csv"
KEYS = "every key is listed in ser_jax/config.py"

# What a run directory that lacks a key was made with, where that is not the default of today.
# A new key whose default changes results belongs here, with the value that means "as before".
OLD_DEFAULTS: dict[str, Any] = {"training.loss_divisor": "own"}

# Keys that say where things lie and how they are computed, not what is: a run directory may be
# resumed with other values of them. Devices, group, dispatch, kernels and recurrence change the
# last bits of sums, which training amplifies (docs/reproducibility.md): a run that goes on with
# others warns and records it.
NEUTRAL_KEYS = (
    "augment.noise_folder",  # What lies there is compared by its digest.
    "augment.room_folder",
    "corpus.follow_links",
    "corpus.root",
    "features.embeddings",
    "features.shards",
    "features.store",
    "features.workers",
    "svm.workers",
    "training.checkpoint_seconds",
    "training.compilation_cache",
    "training.devices",
    "training.dispatch",
    "training.group",
    "training.kernels",
    "training.memory_share",
    "training.preemption_exit_code",
    "training.recurrence",
    "training.residence",
    "training.track",
)


def get_config() -> Config:
    """Returns the base configuration: Multi-CRNN on the built-in demo corpus, locked."""
    c = ml_collections.ConfigDict()
    c.system = "multi_crnn"  # plain_crnn | hsf_crnn | multi_crnn | end2you | probe | svm | fusion

    c.corpus = corpus = ml_collections.ConfigDict()
    # demo | manifest (a list) | files (a pattern) | emodb, ravdess, …: ser-jax corpora lists them
    corpus.name = "demo"
    # folder of the release, or audb:NAME==VERSION; empty for the demo corpus: the cache folder. Of
    # corpora that are joined (name=A+B) one for each, separated by commas, as is the manifest
    corpus.root = ""
    # Where the labels are. manifest: the list, relative to the root. emobox: the folder of one
    # dataset's lists, such as data/emodb. audformat: table/column; the default stands for the
    # column of the scheme "emotion".
    corpus.manifest = DEFAULT_MANIFEST  # path or table/column
    # files: what paths mean, such as {speaker}_{label}_*.wav, or a regular expression with groups
    corpus.pattern = ""
    # go on without listed recordings that are not there (the protocol is then "+modified")
    corpus.allow_missing = False
    # follow links that lead out of corpus.root: only for lists that you trust
    corpus.follow_links = False
    # label=class,…: renames and merges labels, and label=- leaves one out; part of the protocol
    corpus.labels = ""
    # none | majority: a list with a row per rater: the class that most of them chose, no ties
    corpus.raters = "none"

    c.protocol = protocol = ml_collections.ConfigDict()
    protocol.name = "auto"  # a named protocol; auto: the corpus's default
    protocol.seeds = 1  # how many trainings of every fold [D]
    protocol.seed = 0  # the first seed
    # trainings of every seed; their mean probabilities are its prediction [D]
    protocol.ensemble = 1
    protocol.folds = ""  # names of the folds to train, separated by commas; empty: all

    c.features = features = ml_collections.ConfigDict()
    features.sample_rate = 16000  # Hz, mono [D]
    features.window_seconds = 0.025  # s, Hamming [P], its symmetric form [D]
    features.hop_seconds = 0.010  # s [P]
    features.fft = 1024  # points [P]
    features.bands = 40  # log-mel bands [P]
    features.low_hz = 0.0  # Hz [D]
    features.high_hz = 8000.0  # Hz [D]
    features.floor = 1e-10  # smallest band energy before the logarithm [D]
    # mean | left | right | number, from 1: which channels of a recording with several
    features.channel = "mean"
    # How recordings are prepared (docs/robustness.md): offset, level, silent ends, log-mel.
    features.remove_dc = False  # subtract the mean of the samples
    # none | recording (active part to -26 dBFS) | speaker (that of all recordings of a speaker, by
    # one gain; see normalisation) | rms (-26 dBFS) | lufs (-23, ITU-R BS.1770): level to which
    # recordings are brought
    features.level = "none"
    # none | ends: leave out leading and trailing silence
    features.trim = "none"
    # training | utterance | speaker: standardise by the training part; subtract the mean of each
    # log-mel band over the utterance before; or standardise by all recordings of a speaker: that is
    # transductive (docs/features.md)
    features.normalisation = "training"
    # Files of embeddings (docs/embeddings.md), for hsf_crnn, svm and probe; empty: none
    features.embeddings = ""
    # utterance | frame | layers: arrays [D], [T, D] or [L, T, D]
    features.embeddings_level = "utterance"
    # hsf_crnn, svm: whether they stand beside the functionals, or in their place
    features.embeddings_beside = False
    # refuse | drop: go on without utterances that have none (the protocol is then "+modified")
    features.embeddings_missing = "refuse"
    features.speaker_minimum = 10  # utterances that a speaker must have for that
    # refuse | training: speakers with fewer, or their utterances are treated as those of strangers
    features.speaker_few = "refuse"
    # functionals of HSF-CRNN and the SVM: a set of openSMILE, ComParE_2016 [P] | eGeMAPSv02 | …
    # (docs/features.md)
    features.functionals = "ComParE_2016"
    features.max_seconds = 120.0  # s, longest utterance that is accepted [D]
    features.max_bad_share = 0.05  # largest accepted fraction of unusable recordings
    features.store = ""  # folder of cached features; empty: the cache folder
    # folder of record files, where features are larger than memory; empty: the cache folder
    features.shards = ""
    features.workers = 0  # most processes that extract features; 0: one per core

    c.model = model = ml_collections.ConfigDict()
    # fast | literal: CNN once per utterance, or on every segment as the paper has it
    model.form = "fast"
    model.short_window = 30  # frames [P]
    model.short_hop = 20  # frames: overlap 10 [P]
    model.long_window = 50  # frames, second segmentation of Multi-CRNN [P]
    model.long_hop = 25  # frames: overlap 25 [P]
    model.filters = 30  # filters of both convolutions [P]
    model.widths = (5, 3)  # widths of the convolutions: frames, pooled frames [P]
    model.lstm_units = 128  # units of the LSTM [P]
    # CRNNs: add a linear map of each segment's features to the LSTM's output [D]
    model.lstm_residual = False
    # CRNNs: units of an attention over segments, whose weighted mean and deviation stand beside
    # max, mean and min over time (Okabe et al., 2018); 0: none [D]
    model.attention_units = 0
    model.activation = "sigmoid"  # sigmoid | relu: of all dense layers [P]
    model.dropout = 0.0  # fraction of the inputs of dense layers that training sets to 0 [D]
    model.plain_head = (128, 32)  # dense layers of Plain CRNN [P]
    model.hsf_crnn_dense = (128,)  # HSF-CRNN: dense layers after the CRNN [P]
    model.hsf_dense = (1024, 520, 128)  # HSF-CRNN: dense layers after the functionals [P]
    model.hsf_dropout = 0.0  # HSF-CRNN: fraction of the functionals that training sets to 0 [D]
    model.hsf_head = (32,)  # HSF-CRNN: dense layers of the joint representation [P]
    # HSF-CRNN: add a linear map of the functionals to the logits [D]
    model.hsf_skip = False
    model.multi_short_dense = (128, 128)  # Multi-CRNN: dense layers after the short CRNN [P]
    model.multi_head = (128,)  # Multi-CRNN: dense layers of the joint representation [P]

    # mean | statistics | lstm: of the frames of embeddings: their mean, their max, mean and min, or
    # an LSTM of model.lstm_units before these [D]
    model.probe_pooling = "statistics"
    model.probe_dense = (128,)  # dense layers of the probe after pooling [D]

    # The end-to-end baseline, End2You ([20] in the paper's table 2).
    model.end2you_chunk = 640  # samples: 40 ms, one step of the recurrent net
    model.end2you_dropout = 0.5  # fraction of the samples that training sets to 0; 0: none
    model.end2you_filters = 40  # filters of both convolutions
    model.end2you_widths = (20, 40)  # widths of the convolutions: samples, pooled samples
    # max-pool over time after the first convolution, across channels after the second
    model.end2you_pools = (2, 10)
    # lstm | gru: as the paper says, or what the published code could run
    model.end2you_cell = "lstm"
    model.end2you_layers = 2  # recurrent layers
    model.end2you_units = 128  # units of each

    c.training = training = ml_collections.ConfigDict()
    training.epochs = 100  # at most [D]
    training.batch_size = 32  # utterances [D]
    # mean | own: divisor of a batch's summed loss: the mean weight of the batches of an epoch, so
    # that every utterance weighs the same, or its own: those in small batches weigh more [D]
    training.loss_divisor = "mean"
    training.optimizer = "adam"  # adam | sgd (momentum 0.9) | rmsprop | adagrad | lion [D]
    training.learning_rate = 1e-3  # the highest one [D]
    training.schedule = "constant"  # constant | cosine | linear: decays to 0 at training.epochs [D]
    training.warmup_epochs = 0.0  # epochs in which the learning rate rises from 0 [D]
    training.clip_norm = 1.0  # global norm of the gradient [D]
    # AdamW: fraction of a kernel that a step takes off, in units of the learning rate [D]
    training.weight_decay = 0.0
    # decay of a running average of the parameters, which then is the model; 0: none [D]
    training.ema = 0.0
    training.label_smoothing = 0.0  # probability that is spread over all classes [D]
    # run directory whose models training starts from, all but the last layer if the classes differ;
    # empty: from random parameters
    training.init_from = ""
    training.front_rate = 1.0  # factor of the rate of all layers but the last; 0: frozen [D]
    # none | balanced: weight of a class = utterances / (classes · its utterances) [D]; of joined
    # corpora every class of every corpus weighs the same
    training.class_weights = "none"
    # epochs without a better validation UA before a trial stops; 0: never [D]
    training.patience = 0
    # none | train+validation: then train again on both parts, for as many epochs as chosen [D]
    training.refit = "none"
    # of matrix products: float32 | tf32 (GPU, TPU) | bf16 (operands; sums in float32)
    training.precision = "float32"
    # auto | step | chunk: dispatch every step by itself (CPU) or many at once (accelerators)
    training.dispatch = "auto"
    # auto | xla | native: on CPUs kernels compiled by the machine's C++ compiler, or XLA's
    training.kernels = "auto"
    # auto | scan | pallas: on GPUs XLA's loop over the steps, or one kernel of our own
    training.recurrence = "auto"
    # Streamed: padded arrays are read and padded batch by batch; batches and, on a CPU, parameters
    # stay the same.
    # auto | resident | streamed: by size | in memory | from record files on disk
    training.residence = "auto"
    # fraction of the memory of device or host that resident arrays may take, with auto [D]
    training.memory_share = 0.4
    # at most this many length buckets (compiled shapes); 0: 6, from 2000 utterances on 20
    training.shapes = 0
    training.devices = 0  # devices to use; 0: all (on a CPU: one virtual device per core)
    # trials trained at once; 0: one per CPU device, all of them on an accelerator
    training.group = 0
    training.checkpoint_seconds = 120.0  # s between checkpoints of unfinished trials
    # none | tensorboard | mlflow | wandb: where the lines of metrics.jsonl are shown as they come
    training.track = "none"
    training.compilation_cache = True  # keep compiled programs in the cache folder
    training.preemption_exit_code = 42  # exit code after SIGTERM and a saved checkpoint

    # How training varies its batches; scoring never does [D].
    c.augment = augment = ml_collections.ConfigDict()
    # In every step, anew. All but hsf_noise vary the log-mel; functionals stay those of the
    # recording (docs/tuning.md).
    augment.speed = 0.0  # largest change of speed, pitch and tempo together: 0.1 is 0.9 to 1.1
    augment.silence_frames = 0  # frames, longest silence before, and behind, an utterance
    augment.room = 0.0  # fraction of utterances that are put into a room
    augment.room_seconds = (0.2, 0.8)  # s, range of its reverberation time
    augment.noise = 0.0  # fraction of utterances to which coloured noise is added
    augment.noise_snr_db = (0.0, 30.0)  # dB, range of its signal-to-noise ratio (mean powers)
    # dB per octave that its density falls by, at most; 3 is pink, 6 brown, and white the least
    augment.noise_slope_db = 6.0
    augment.telephone = 0.0  # fraction of utterances of which the band of a telephone is left
    augment.gain_db = 0.0  # dB, largest change of loudness
    augment.time_masks = 0  # masks over time (SpecAugment)
    augment.time_mask_frames = 0  # frames, the longest of them
    augment.band_masks = 0  # masks over log-mel bands
    augment.band_mask_bands = 0  # bands, the widest of them
    augment.hsf_noise = 0.0  # standard deviations of Gaussian noise on the functionals
    # Stored variants (docs/robustness.md): waves of training recordings, changed before any feature
    # is computed. noise_snr_db, noise_slope_db and room_seconds are ranges of theirs, too.
    augment.variants = 0  # variants of every training recording; an epoch takes it or one of them
    augment.variants_seed = 0  # seed of their draws
    augment.variants_gain_db = 10.0  # dB, largest change of level, behind room and noise
    augment.variants_noise = 0.6  # fraction of variants with noise
    augment.variants_room = 0.4  # fraction of variants in a room
    augment.variants_telephone = 0.25  # fraction through the band of a telephone and A-law
    augment.variants_codec = 0.25  # fraction through MP3 of 16 to 64 kbit/s
    augment.noise_folder = ""  # recordings of noise for variants; empty: coloured noise
    augment.room_folder = ""  # impulse responses for variants; empty: exponential decay

    # Several systems whose probabilities are averaged (docs/fusion.md).
    c.fusion = fusion = ml_collections.ConfigDict()
    fusion.members = ("svm", "tuned/plain_crnn", "tuned/hsf_crnn")  # presets, by name or file
    # equal | validation: weights in the mean, fitted on the validation part of every trial [D]
    fusion.weights = "equal"

    # The baseline; of `training` it uses class_weights and refit.
    c.svm = svm = ml_collections.ConfigDict()
    # C, the cost of errors; the best on the validation part is kept [D]
    svm.c = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    # spread of the projected gradient at which a fit has converged; scikit-learn's default [D]
    svm.tolerance = 1e-4
    svm.iterations = 10_000  # passes over the training part after which a fit ends unconverged [D]
    # most processes that fit, about 1.2 GB each at the size of IEMOCAP; 0: one per core
    svm.workers = 0
    return c.lock()


def presets() -> list[str]:
    """Returns the names of the packaged presets, such as "multi_crnn" and "tuned/plain_crnn"."""
    folder = _presets_folder()
    found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py"))
    return sorted(path.as_posix() for path in found)


def preset_file(name: str) -> Path | None:
    """Returns the file that `--config` means: one of that path, or the packaged preset."""
    for path in (Path(name), packaged_file(name)):
        if path.is_file():
            return path
    return None


def packaged_file(name: str) -> Path:
    """Returns the file of a packaged preset."""
    return _presets_folder() / f"{name}.py"


def read_file(path: str) -> Config:
    """Returns what `get_config()` of a Python file returns: the file is executed.

    `FILE:TEXT` calls `get_config(TEXT)`. Whatever the file raises is raised.
    """
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_file("config", path, flag_values=values, sys_argv=[])
        config = values["config"].value
        if config is not None:
            _ = config.system  # The parser reports a file that cannot be read at its first use.
        return config
    finally:
        sys.modules.pop("config_config", None)  # Another file would be loaded into this module.


def load_preset(name: str, flag: str = "--config") -> Config:
    """Returns the configuration of a preset, by name or file, locked.

    `FILE:TEXT` calls its `get_config(TEXT)`. If it cannot be loaded, a UserError says why; `flag`
    is what named it.
    """
    name, *parameter = name.split(":", 1)
    path = preset_file(os.path.expanduser(name))
    if path is None:
        raise UserError(
            f"{flag}={name}: there is no such file and no such preset; {known_presets()}"
        )
    try:
        config = read_file(":".join([str(path), *parameter]))
    except Exception as error:  # Whatever a file of the user's may raise.
        if "'get_config'" in str(error):
            config = None
        elif 'Key "' in str(error):
            raise UserError(f"{flag}={name}: {key_message(error)}") from None
        else:
            text = f"{type(error).__name__}: {error}"
            if "parsing config file" in text:  # It holds the whole traceback of the file.
                text = text.strip().splitlines()[-1]
            reason = " ".join(text.split())
            raise UserError(f"{flag}={name} cannot be loaded: {reason}") from None
    if config is None:
        raise UserError(
            f"{flag}={name} has no get_config() that returns a configuration; the presets have"
            " one, such as multi_crnn"
        )
    return config


def known_presets() -> str:
    """Returns the names of the packaged presets, for messages."""
    return f"the presets are {', '.join(presets())}"


def key_message(error: Exception) -> str:
    """Returns what is wrong with a key, given what ml_collections raised."""
    text = str(error)
    key = re.search(r"""["'](\w+)\\?["']""", text)
    meant = re.search(r'Did you mean "(.+?)" instead', text)
    hint = f"; did you mean {meant[1]!r}?" if meant else ""
    return f"the configuration has no key {(key[1] if key else text)!r}{hint} ({KEYS})"


def _presets_folder() -> Path:
    """Returns the folder of presets: beside this file if installed, configs/ in a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else installed.parents[1] / "configs"


def from_json(values: Mapping[str, Any]) -> Config:
    """Returns the configuration that a run directory's `config.json` describes.

    Keys that it lacks are newer than the run: they take the value of `OLD_DEFAULTS` or the default.

    Raises:
      UserError: If it has keys that this version does not know, or a value is of another type.
    """
    if "system" not in values:
        raise UserError("the run's configuration is damaged (it lacks system); train it again")
    config = get_config()
    for key, value in OLD_DEFAULTS.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    _fill(config, values, "")
    return config


def _fill(config: Config, values: Mapping[str, Any], prefix: str) -> None:
    unknown = sorted(values.keys() - set(config.keys()))
    if unknown:
        names = ", ".join(prefix + name for name in unknown)
        raise UserError(
            f"the run was made by a newer version, with configuration keys that this one does not"
            f" know ({names}): install that version, or train the run again"
        )
    for name, value in values.items():
        default = config[name]
        if isinstance(default, ml_collections.ConfigDict) and isinstance(value, Mapping):
            _fill(default, value, f"{prefix}{name}.")
        elif _fits(value, default):
            config[name] = tuple(value) if isinstance(value, list) else value
        else:
            raise UserError(
                f"the run's configuration is damaged ({prefix}{name}={value!r:.40}); train it again"
            )


def _fits(value: Any, default: Any) -> bool:
    """Returns whether a value from JSON has the type of the default."""
    if isinstance(default, tuple):
        inner = next(iter(default), "")
        return isinstance(value, list) and all(_fits(item, inner) for item in value)
    return type(value) is type(default) or isinstance(default, float) and type(value) is int
