"""How many operations training needs, by formula."""

import numpy as np
import workload

from ser_jax.config import Config
from ser_jax.models import build

FORWARD, BACKWARD = 1, 2  # the gradient of a matrix product is two products of its size


def epoch(config: Config, log_mel: list[np.ndarray], classes: int) -> float:
    """Returns the operations of one epoch, forward and backward, of the cheapest exact form.

    A multiplication and its addition count two.
    Per segment: conv1 over the `hop` frames that are new; conv2 over the rows that are new, or over
    all rows of the segment where the hop is no multiple of the CNN's stride of 4; the two products
    of the LSTM. Per utterance: the fully connected layers. A layer that reads features needs no
    gradient of its input. Left out are elementwise work and the frames by which an utterance's
    first segment is longer than a hop.

    Args:
      config: Names the system and its sizes.
      log_mel: N arrays [F_n, M].
      classes: Size K of the softmax.
    """
    m, total = config.model, 0
    width1, width2 = m.widths
    for window, hop in build.segmentations(config):
        rows = (window - width1 + 1 - 3) // 2 + 1 - width2 + 1  # of conv2
        conv1 = hop * width1 * workload.BANDS * m.filters
        conv2 = (rows if hop % 4 else hop // 2) * width2 * m.filters**2
        lstm = ((rows - 3) // 2 + 1) * m.filters * 4 * m.lstm_units + 4 * m.lstm_units**2
        segment = BACKWARD * conv1 + (FORWARD + BACKWARD) * (conv2 + lstm)
        total += workload.segments(log_mel, window, hop) * segment
    crnn = 3 * m.lstm_units
    stacks = {
        "plain_crnn": [(crnn, *m.plain_head, classes)],
        "hsf_crnn": [
            (crnn, *m.hsf_crnn_dense),
            (workload.FUNCTIONALS, *m.hsf_dense),
            (m.hsf_crnn_dense[-1] + m.hsf_dense[-1], *m.hsf_head, classes),
        ],
        "multi_crnn": [
            (crnn, *m.multi_short_dense),
            (m.multi_short_dense[-1] + crnn, *m.multi_head, classes),
        ],
    }[config.system]
    for widths in stacks:
        sizes = [read * made for read, made in zip(widths[:-1], widths[1:], strict=True)]
        reads_features = widths[0] == workload.FUNCTIONALS
        total += len(log_mel) * ((FORWARD + BACKWARD) * sum(sizes) - reads_features * sizes[0])
    return 2.0 * total
