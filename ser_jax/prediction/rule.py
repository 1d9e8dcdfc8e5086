"""From probabilities to an answer: which classes are to choose from, and when none of them is named."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ser_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said about a recording.

    Attributes:
      label: The class with the highest probability; None if that is below the threshold.
      probabilities: Class → share in [0, 1], in the model's order; they add up to 1.
    """

    label: str | None
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How probabilities become answers.

    Attributes:
      known: The K classes of the model.
      classes: Those to choose from, in the same order.
      threshold: Smallest probability with which a class is named, in [0, 1].
    """

    known: tuple[str, ...]
    classes: tuple[str, ...]
    threshold: float

    def answers(self, probabilities: np.ndarray) -> list[Answer]:
        """Returns an answer for each of N recordings.

        Args:
          probabilities: [N, K], rows that add up to 1. Those of the classes to choose from are divided by their sum.
        """
        shares = np.asarray(probabilities, np.float64)[:, [self.known.index(name) for name in self.classes]]
        # The sum of very unlikely classes may be 0.
        shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        best = shares.argmax(axis=1)
        return [
            Answer(
                self.classes[int(number)] if row[number] >= self.threshold else None,
                dict(zip(self.classes, row.tolist(), strict=True)),
            )
            for number, row in zip(best, shares, strict=True)
        ]


def make_rule(known: Sequence[str], classes: Sequence[str], threshold: float) -> Rule:
    """Makes a rule.

    Args:
      known: Classes of the model.
      classes: Those to choose from, in any order; none: all.
      threshold: Smallest probability with which a class is named.

    Raises:
      UserError: If a class is unknown, only one is left, or the threshold is no share.
    """
    asked = {name.strip() for name in classes} - {""}
    unknown = sorted(asked - set(known))
    if unknown:
        raise UserError(f"classes={','.join(unknown)}: the model knows {', '.join(known)}; choose among them")
    if len(asked) == 1:
        raise UserError(f"classes={asked.pop()} leaves no choice; name two or more of {', '.join(known)}")
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold={threshold:g} is no share; choose one in [0, 1], such as 0.5")
    return Rule(tuple(known), tuple(name for name in known if name in (asked or known)), threshold)
