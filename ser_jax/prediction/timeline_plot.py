"""A timeline as a drawing: the waveform above, the probabilities of the window below."""

import io

import numpy as np

from ser_jax.prediction.rule import Rule
from ser_jax.prediction.timeline import Timeline

# Told apart with any colour vision (Okabe and Ito); more classes begin again, hatched.
COLOURS = ("#D55E00", "#E69F00", "#999999", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
WIDTH, HEIGHT = 9.0, 4.2  # inches
DOTS = 160  # per inch of a PNG
MOST_VECTOR_POINTS = 20_000  # beyond, the areas become an image inside the SVG: megabytes otherwise


def draw(timeline: Timeline, rule: Rule, form: str) -> bytes:
    """Draws a timeline; the same timeline gives the same bytes.

    Args:
      timeline: The timeline.
      rule: Its classes.
      form: "png" or "svg".

    Returns:
      The content of the file.
    """
    import matplotlib
    from matplotlib import figure

    from ser_jax.evaluation import canvas

    with matplotlib.rc_context(canvas.STYLE):
        drawing = figure.Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(1, 3))
        begin, end = timeline.start, timeline.start + timeline.seconds
        low, high = timeline.envelope.ranges().T
        upper.fill_between(np.linspace(begin, end, len(low)), low, high, color=canvas.MUTED, linewidth=0.5)
        upper.set(ylim=(-1, 1), yticks=[])
        upper.grid(False)
        upper.set_title(canvas.short(timeline.file.rpartition("/")[2]), loc="left")
        edges = timeline.edges()
        floor = np.zeros(len(edges) - 1)
        for number, name in enumerate(rule.classes):
            share = np.nan_to_num(timeline.window[:, number]) if len(timeline.times) else floor
            lower.stairs(
                *(floor + share, edges),
                baseline=floor,
                fill=True,
                color=COLOURS[number % len(COLOURS)],
                hatch="//" if number >= len(COLOURS) else None,
                label=canvas.short(name),
                rasterized=timeline.window.size > MOST_VECTOR_POINTS,
            )
            floor = floor + share
        lower.set(xlabel="time in s", ylabel="probability", xlim=(begin, end), ylim=(0, 1))
        lower.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), reverse=True)
        content = io.BytesIO()
        nothing = {"svg": dict.fromkeys(("Creator", "Date", "Format", "Type")), "png": {"Software": None}}
        drawing.savefig(content, format=form, dpi=DOTS, metadata=nothing[form])
    return content.getvalue()
