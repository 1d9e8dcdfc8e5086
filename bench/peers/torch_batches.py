"""The peer's batches: how utterances are put together and padded.

sorted: neighbours in length, padded to the longest of the batch. Which utterances share a batch
never changes, so the
  batches are made once, before anything is timed; their order is shuffled every epoch. The least
  work possible.
random: as it is usually written: 32 random utterances, put together when they are needed.
buckets: utterances of similar length lie padded in one array per bucket, from which random rows are
gathered.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch_crnn import Batch

SIZE = 32  # utterances
GROWTH = 1.1  # padded length of a bucket over that of the next smaller one


class Corpus(NamedTuple):
    """Standardised utterances.

    Attributes:
      frames: N tensors [F_n, M], short ones filled up to one segment.
      lengths: [N] i64, frames without what they are filled with.
      hsf: [N, D], or None.
      targets: [N] i64.
      channels: Segment length and hop of every channel, in frames.
    """

    frames: list[Tensor]
    lengths: Tensor
    hsf: Tensor | None
    targets: Tensor
    channels: tuple[tuple[int, int], ...]


def read(folder: Path, channels: tuple[tuple[int, int], ...], dtype: torch.dtype) -> Corpus:
    """Reads the folder that `process.write_corpus` has written."""
    flat = torch.from_numpy(np.load(folder / "frames.npy")).to(dtype)
    hsf = (
        torch.from_numpy(np.load(folder / "hsf.npy")).to(dtype)
        if (folder / "hsf.npy").exists()
        else None
    )
    frames = list(flat.split(np.load(folder / "held.npy").tolist()))
    lengths, targets = (
        torch.from_numpy(np.load(folder / f"{name}.npy")).long() for name in ("lengths", "targets")
    )
    return Corpus(frames, lengths, hsf, targets, channels)


def collate(corpus: Corpus, members: Tensor, form: str) -> Batch:
    """Puts utterances [B] together, padded to the longest of them."""
    frames = [corpus.frames[n] for n in members.tolist()]
    if form == "fast":
        values = (pad_sequence(frames, batch_first=True),) * len(corpus.channels)
    else:
        values = tuple(
            pad_sequence([x.unfold(0, *channel) for x in frames], True)
            for channel in corpus.channels
        )
    hsf = None if corpus.hsf is None else corpus.hsf[members]
    lengths = corpus.lengths[members]
    counts = tuple((lengths - window).clamp(min=0) // hop + 1 for window, hop in corpus.channels)
    return Batch(values, counts, hsf, corpus.targets[members])


def sorted_batches(corpus: Corpus, form: str) -> list[Batch]:
    """Returns all batches of an epoch, short utterances first."""
    return [collate(corpus, members, form) for members in _by_length(corpus).split(SIZE)]


def random_batches(corpus: Corpus, form: str) -> Iterator[Batch]:
    """Makes the batches of an epoch one after the other."""
    for members in torch.randperm(len(corpus.frames)).split(SIZE):
        yield collate(corpus, members, form)


def buckets(corpus: Corpus, form: str) -> list[Batch]:
    """Returns the utterances by length; buckets end with a row that fills up and does not count."""
    order = _by_length(corpus)
    lengths = corpus.lengths[order]
    held, start = [], 0
    while start < len(order):
        stop = int(torch.searchsorted(lengths, int(GROWTH * int(lengths[start])), right=True))
        stop = min(len(order), max(stop, start + SIZE))
        whole = collate(corpus, torch.cat([order[start:stop], order[start : start + 1]]), form)
        whole.targets[-1] = -100
        held.append(whole)
        start = stop
    return held


def bucket_plan(held: list[Batch]) -> list[tuple[int, Tensor]]:
    """Returns the steps of an epoch in random order: a bucket and the rows [B] of a batch."""
    steps = []
    for number, bucket in enumerate(held):
        filler = len(bucket.targets) - 1
        rows = torch.randperm(filler)
        rows = torch.cat([rows, torch.full((-filler % SIZE,), filler)])
        steps += [(number, part) for part in rows.split(SIZE)]
    return [steps[n] for n in torch.randperm(len(steps)).tolist()]


def take(bucket: Batch, rows: Tensor) -> Batch:
    """Gathers rows [B] of a bucket."""
    same = {id(values): values.index_select(0, rows) for values in bucket.values}
    return Batch(
        tuple(same[id(values)] for values in bucket.values),
        tuple(counts.index_select(0, rows) for counts in bucket.counts),
        None if bucket.hsf is None else bucket.hsf.index_select(0, rows),
        bucket.targets.index_select(0, rows),
    )


def move(batch: Batch, device: torch.device) -> Batch:
    """Puts a batch on a device."""
    same = {id(values): values.to(device) for values in batch.values}
    return Batch(
        tuple(same[id(values)] for values in batch.values),
        tuple(counts.to(device) for counts in batch.counts),
        None if batch.hsf is None else batch.hsf.to(device),
        batch.targets.to(device),
    )


def _by_length(corpus: Corpus) -> Tensor:
    return corpus.lengths.argsort(stable=True)
