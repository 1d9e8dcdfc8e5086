"""Says live which emotion raw PCM or a microphone holds: `… | python -m ser_jax.stream --model=runs/x --rate=16000`."""

import sys
from pathlib import Path

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError

if __name__ == "__main__":
    MODEL = flags.DEFINE_string("model", "", "Run directory that main has written.")
    RATE = flags.DEFINE_integer("rate", 16000, "Sampling rate in Hz.")
    CHANNELS = flags.DEFINE_integer("channels", 1, "Number of channels, interleaved; their mean is heard.")
    ENCODING = flags.DEFINE_enum(
        "encoding", "s16", ["s16", "f32"], "Samples: 16-bit integers or floats, little-endian."
    )
    MICROPHONE = flags.DEFINE_bool("microphone", False, "Listen to the default microphone; default: standard input.")
    WINDOW = flags.DEFINE_float("window", 3.0, "Seconds that every line looks back on.")
    JSON = flags.DEFINE_bool("json", False, "Print a JSON object per line; default: a line for a person.")


def main() -> int:
    """Prints a line per segment; at the end of the input, or at Ctrl-C, the answer for all of it."""
    from ser_jax.features.audio import MAX_CHANNELS
    from ser_jax.prediction import live, pcm_source
    from ser_jax.prediction.predictor import Predictor
    from ser_jax.prediction.stream import Stream

    if not MODEL.value:
        raise UserError("--model is missing: name the run directory that python -m ser_jax.main has written")
    if not 1 <= CHANNELS.value <= MAX_CHANNELS:
        raise UserError(f"--channels={CHANNELS.value}: 1 to {MAX_CHANNELS} channels are read")
    if MICROPHONE.value:
        source = pcm_source.microphone(RATE.value, ENCODING.value, CHANNELS.value)
    else:
        source = pcm_source.standard_input(sys.stdin.fileno(), ENCODING.value, CHANNELS.value)
    stream = Stream(Predictor(Path(MODEL.value)), RATE.value, window_seconds=WINDOW.value)
    live.listen(stream, source, live.speaker(JSON.value))
    return 0


if __name__ == "__main__":
    cli.run(main)
