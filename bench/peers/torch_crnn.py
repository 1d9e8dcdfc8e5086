"""The three systems in PyTorch: the peer of ser_jax/models/crnn.py, with the same weights.

Forms of the CNN: "segments" convolves every segment by itself, as it is usually written; "fast"
shares what neighbouring segments have in common, as ser_jax does, in channels-last layout, which is
twice as fast as Conv1d here. Forms of the LSTM: "padded" runs over right-padded batches (the path
of oneDNN and of cuDNN's persistent kernels), "packed" over packed sequences, as it is usually
written. torch.compile is no help on a CPU: it made the step 15 % slower, and fails where the length
is dynamic.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

BANDS, FILTERS, WIDTHS, UNITS = 40, 30, (5, 3), 128
FUNCTIONALS, CLASSES = 6373, 4
SHORT, LONG = (30, 20), (50, 25)  # frames of a segment, hop
CHANNELS = {"plain_crnn": (SHORT,), "hsf_crnn": (SHORT,), "multi_crnn": (SHORT, LONG)}


class Batch(NamedTuple):
    """Standardised utterances.

    Attributes:
      values: Per channel [B, F, M] frames (fast form) or [B, T, M, W] segments, right-padded with
        any finite number.
      counts: Per channel [B] i64, real segments.
      hsf: [B, D], or None.
      targets: [B] i64, class numbers; −100 for a row that does not count.
    """

    values: tuple[Tensor, ...]
    counts: tuple[Tensor, ...]
    hsf: Tensor | None
    targets: Tensor


class CRNN(nn.Module):
    """CNN per segment, LSTM over segments, max, mean and min over time."""

    def __init__(self, window: int, hop: int, form: str, packed: bool):
        """Makes the layers; `form` is fast or segments."""
        super().__init__()
        self.window, self.hop, self.form, self.packed = window, hop, form, packed
        self.rows1 = _pooled(window - WIDTHS[0] + 1)
        self.rows2 = _pooled(self.rows1 - WIDTHS[1] + 1)
        self.conv1 = nn.Conv1d(BANDS, FILTERS, WIDTHS[0])
        self.conv2 = nn.Conv1d(FILTERS, FILTERS, WIDTHS[1])
        self.lstm = nn.LSTM(self.rows2 * FILTERS, UNITS, batch_first=True)

    def forward(self, values: Tensor, counts: Tensor) -> Tensor:
        """Embeds a batch: values as in `Batch`, counts [B] → [B, 3 H]."""
        features = self._fast(values) if self.form == "fast" else self._segments(values)
        steps = features.shape[1]
        if self.packed:
            packed = pack_padded_sequence(
                features, counts.cpu(), batch_first=True, enforce_sorted=False
            )
            hidden, _ = pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=steps
            )
        else:
            hidden, _ = self.lstm(features)
        padding = (torch.arange(steps, device=counts.device) >= counts[:, None])[:, :, None]
        mean = hidden.masked_fill(padding, 0).sum(1) / counts[:, None]
        highest = hidden.masked_fill(padding, -torch.inf).amax(1)
        return torch.cat([highest, mean, hidden.masked_fill(padding, torch.inf).amin(1)], 1)

    def _segments(self, segments: Tensor) -> Tensor:
        batch, steps = segments.shape[:2]
        x = F.max_pool1d(F.relu(self.conv1(segments.flatten(0, 1))), 3, 2)
        x = F.max_pool1d(F.relu(self.conv2(x)), 3, 2)
        return x.transpose(1, 2).reshape(batch, steps, -1)

    def _fast(self, frames: Tensor) -> Tensor:
        batch, length, _ = frames.shape
        steps = (length - self.window) // self.hop + 1
        x = _convolve(frames, self.conv1)
        if self.hop % 4 == 0:  # the stride of the whole CNN
            x = F.relu(_pool(x, 2))
            x = F.relu(_pool(_convolve(x, self.conv2), 2))
            x = x.unfold(1, self.rows2, self.hop // 4)[:, :steps]
            return x.transpose(2, 3).reshape(batch, steps, -1)
        x = F.relu(_pool(x, 1))
        x = x.unfold(1, 2 * self.rows1 - 1, self.hop)[:, :steps, :, ::2]
        x = x.transpose(2, 3).reshape(batch * steps, self.rows1, -1)
        x = F.relu(_pool(_convolve(x, self.conv2), 2))
        return x.reshape(batch, steps, -1)


class Plain(nn.Module):
    """CRNN 384 → 128 → 32 → classes."""

    def __init__(self, form: str, packed: bool):
        """Makes the layers."""
        super().__init__()
        self.crnn = CRNN(*SHORT, form, packed)
        self.head = _dense(3 * UNITS, 128, 32)
        self.softmax = nn.Linear(32, CLASSES)

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits [B, K]."""
        return self.softmax(self.head(self.crnn(batch.values[0], batch.counts[0])))


class HSF(nn.Module):
    """CRNN 384 → 128, joined with functionals 6373 → 1024 → 520 → 128; 256 → 32 → classes."""

    def __init__(self, form: str, packed: bool):
        """Makes the layers."""
        super().__init__()
        self.crnn = CRNN(*SHORT, form, packed)
        self.crnn_dense = _dense(3 * UNITS, 128)
        self.hsf_dense = _dense(FUNCTIONALS, 1024, 520, 128)
        self.head = _dense(256, 32)
        self.softmax = nn.Linear(32, CLASSES)

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits [B, K]."""
        learned = self.crnn_dense(self.crnn(batch.values[0], batch.counts[0]))
        return self.softmax(self.head(torch.cat([learned, self.hsf_dense(batch.hsf)], 1)))


class Multi(nn.Module):
    """Short CRNN 384 → 128 → 128, joined with the long CRNN's 384; 512 → 128 → classes."""

    def __init__(self, form: str, packed: bool):
        """Makes the layers."""
        super().__init__()
        self.short = CRNN(*SHORT, form, packed)
        self.long = CRNN(*LONG, form, packed)
        self.short_dense = _dense(3 * UNITS, 128, 128)
        self.head = _dense(128 + 3 * UNITS, 128)
        self.softmax = nn.Linear(128, CLASSES)

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits [B, K]."""
        short = self.short_dense(self.short(batch.values[0], batch.counts[0]))
        return self.softmax(
            self.head(torch.cat([short, self.long(batch.values[1], batch.counts[1])], 1))
        )


SYSTEMS = {"plain_crnn": Plain, "hsf_crnn": HSF, "multi_crnn": Multi}


def torch_name(name: str) -> str:
    """Returns the name here of a parameter of ser_jax, whose array has its axes reversed here."""
    *path, layer, leaf = ["", *name.split("/")]
    renamed = {
        "kernel": "weight",
        "lstm_kernel": "lstm.weight_ih_l0",
        "lstm_recurrent_kernel": "lstm.weight_hh_l0",
    }
    renamed |= {"lstm_bias": "lstm.bias_ih_l0"}
    for conv in ("conv1", "conv2"):
        renamed |= {f"{conv}_kernel": f"{conv}.weight", f"{conv}_bias": f"{conv}.bias"}
    if layer.startswith("Dense_"):  # every layer is followed by a sigmoid
        layer = str(2 * int(layer.removeprefix("Dense_")))
    return ".".join([*path, layer, renamed.get(leaf, leaf)]).lstrip(".")


def load(model: nn.Module, params: dict[str, np.ndarray]) -> None:
    """Gives a model the parameters of ser_jax by flat name; its second LSTM bias becomes 0."""
    state = {torch_name(name): torch.from_numpy(values.T.copy()) for name, values in params.items()}
    second = {
        name: torch.zeros_like(values)
        for name, values in model.state_dict().items()
        if "bias_hh" in name
    }
    model.load_state_dict(state | second)


def gradients(model: nn.Module, names: list[str]) -> dict[str, np.ndarray]:
    """Returns the gradients of a model under ser_jax's names, axes in ser_jax's order."""
    found = dict(model.named_parameters())
    return {name: found[torch_name(name)].grad.cpu().numpy().T for name in names}


def _convolve(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """[B, L, I] → [B, L − width + 1, C]; channels-last, so that nothing is transposed."""
    weight = layer.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x.transpose(1, 2).unsqueeze(2), weight, layer.bias).squeeze(2).transpose(1, 2)


def _pool(x: Tensor, stride: int) -> Tensor:
    return (
        F.max_pool2d(x.transpose(1, 2).unsqueeze(2), (1, 3), (1, stride)).squeeze(2).transpose(1, 2)
    )


def _pooled(size: int) -> int:
    return (size - 3) // 2 + 1


def _dense(*widths: int) -> nn.Sequential:
    layers = []
    for size, width in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(size, width), nn.Sigmoid()]
    return nn.Sequential(*layers)
