"""Predicts the emotion of live sound: raw PCM on standard input, or a microphone.

arecord -t raw -f S16_LE -r 16000 | ser-jax stream --model=runs/x --rate=16000
"""

import signal
import sys

from ser_jax.commands.command_line import ENROL, PREDICTOR, Flag, Options
from ser_jax.runtime.errors import UserError

REGULAR_END = signal.SIGINT

FLAGS = (
    PREDICTOR,
    ENROL,
    Flag("rate", 16000, "Sampling rate in Hz."),
    Flag("channels", 1, "Number of channels, interleaved; their mean is used."),
    Flag(
        "encoding",
        "s16",
        "Samples: 16-bit integers or floats, little-endian.",
        choices=("s16", "f32"),
    ),
    Flag("microphone", False, "Read a microphone; default: standard input."),
    Flag("device", "", "Microphone: number or part of its name, as --devices lists them."),
    Flag("devices", False, "List the microphones, and do nothing else."),
    Flag("window", 3.0, "Seconds that every line looks back on."),
    Flag("json", False, "Print a JSON object per line; default: a line for a person."),
)


def main(options: Options) -> None:
    """Prints a line per segment; at the end of the input, or at Ctrl-C, the result of it all."""
    from ser_jax.features.audio import MAX_CHANNELS
    from ser_jax.prediction import batch, live, segments, weights
    from ser_jax.prediction.predictor import Predictor
    from ser_jax.prediction.streaming import Stream

    if options.devices:
        print("\n".join(live.microphones()) or "there is no microphone")
        return
    model = options.model_folder
    if not 1 <= options.channels <= MAX_CHANNELS:
        raise UserError(f"--channels={options.channels}: 1 to {MAX_CHANNELS} channels are read")
    if options.microphone or options.device:
        form = options.rate, options.encoding, options.channels
        source = live.microphone(*form, options.device)
    else:
        source = live.standard_input(sys.stdin.fileno(), options.encoding, options.channels)
    segments.check_streams(weights.read_config(model))  # before the models want openSMILE or more
    predictor = batch.enrolled(Predictor(model), options.enrol)
    stream = Stream(predictor, options.rate, window_seconds=options.window)
    live.listen(stream, source, live.printer(options.json))
