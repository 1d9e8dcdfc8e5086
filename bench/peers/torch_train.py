"""The PyTorch peer as a process: makes a model and its batches, then obeys lines on standard input.

"epoch" trains on every utterance once and answers with a line of JSON; "quit" ends the process.
With --gradients it computes one gradient instead, of all utterances as one batch, for comparison
with ser_jax.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torch_batches
import torch_crnn
from torch import Tensor, nn
from torch_batches import Batch, Corpus

LEARNING_RATE, CLIP_NORM = 1e-3, 1.0
WARM_UPS = 3  # steps before a graph is captured


class Run:
    """One training."""

    def __init__(self, model: nn.Module, class_weights: Tensor, adam: str):
        """Takes a model and the weights [K] of the classes; `adam` is fused, foreach or plain."""
        self.model, self.class_weights = model, class_weights
        cuda = class_weights.is_cuda
        chosen = {
            "fused": {"fused": True},
            "foreach": {"foreach": True},
            "plain": {"foreach": False},
        }[adam]
        self.optimiser = torch.optim.Adam(
            model.parameters(), LEARNING_RATE, capturable=cuda, **chosen
        )
        self.loss_sum = torch.zeros((), dtype=class_weights.dtype, device=class_weights.device)

    def loss(self, batch: Batch) -> Tensor:
        """Returns the weighted mean cross-entropy."""
        return F.cross_entropy(self.model(batch), batch.targets, self.class_weights)

    def step(self, batch: Batch) -> None:
        """Makes one update."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM, foreach=True)
        self.optimiser.step()
        self.loss_sum += loss.detach()


class Graphs:
    """Steps of one run as CUDA graphs, one per bucket, on a stream of the run's own."""

    def __init__(self, run: Run, held: list[Batch]):
        """Captures a whole step; parameters and optimiser end up as they were."""
        device = run.class_weights.device
        self.stream = torch.cuda.Stream(device)
        self.rows = torch.zeros(torch_batches.SIZE, dtype=torch.int64, device=device)
        self.graphs = []
        state = {name: values.clone() for name, values in run.model.state_dict().items()}
        pool = torch.cuda.graph_pool_handle()
        for bucket in held:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(WARM_UPS):
                    run.step(torch_batches.take(bucket, self.rows))
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                run.step(torch_batches.take(bucket, self.rows))
            self.graphs.append(graph)
        # In place: the graphs know the addresses.
        run.model.load_state_dict(state)
        for moments in run.optimiser.state.values():
            for values in moments.values():
                values.zero_()
        run.loss_sum.zero_()
        torch.cuda.synchronize()

    def replay(self, bucket: int, rows: Tensor) -> None:
        """Makes one update with rows [B] of a bucket; the host does not wait."""
        with torch.cuda.stream(self.stream):
            self.rows.copy_(rows)
            self.graphs[bucket].replay()


def eager_epoch(run: Run, corpus: Corpus, batches: str, form: str) -> Callable[[], None]:
    """Returns a function that trains one epoch step by step."""
    device = run.class_weights.device
    if batches == "random":

        def work() -> None:
            for batch in torch_batches.random_batches(corpus, form):
                run.step(torch_batches.move(batch, device))

    elif batches == "sorted":
        made = [
            torch_batches.move(batch, device)
            for batch in torch_batches.sorted_batches(corpus, form)
        ]

        def work() -> None:
            for number in torch.randperm(len(made)).tolist():
                run.step(made[number])

    else:
        held = [
            torch_batches.move(bucket, device) for bucket in torch_batches.buckets(corpus, form)
        ]

        def work() -> None:
            for number, rows in torch_batches.bucket_plan(held):
                run.step(torch_batches.take(held[number], rows.to(device)))

    return work


def graphs_epoch(runs: list[Run], corpus: Corpus, form: str) -> Callable[[], None]:
    """Returns what trains an epoch of every run side by side on a GPU, which holds the data."""
    held = torch_batches.buckets(corpus, form)
    resident = [torch_batches.move(bucket, torch.device("cuda")) for bucket in held]
    graphs = [Graphs(run, resident) for run in runs]

    def work() -> None:
        plans = [torch_batches.bucket_plan(held) for _ in runs]
        rows = torch.stack([torch.stack([rows for _, rows in plan]) for plan in plans]).cuda()
        torch.cuda.synchronize()
        for step in range(len(plans[0])):
            for graph, plan, chosen in zip(graphs, plans, rows, strict=True):
                graph.replay(plan[step][0], chosen[step])
        torch.cuda.synchronize()

    return work


def keep_freed_memory() -> None:
    """Has glibc keep freed blocks, as ser_jax does in its own process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def write_gradients(path: Path, run: Run, corpus: Corpus, form: str, names: list[str]) -> None:
    """Writes loss and gradients of all utterances as one batch."""
    batch = torch_batches.collate(corpus, torch.arange(len(corpus.frames)), form)
    loss = run.loss(torch_batches.move(batch, run.class_weights.device))
    loss.backward()
    np.savez(path, loss=loss.detach().cpu().numpy(), **torch_crnn.gradients(run.model, names))


def main() -> None:
    """Reads the corpus and obeys."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what bench/peers/process.py has written")
    parser.add_argument("--system", choices=tuple(torch_crnn.SYSTEMS), required=True)
    parser.add_argument("--form", choices=("fast", "segments"), default="fast")
    parser.add_argument("--lstm", choices=("padded", "packed"), default="padded")
    parser.add_argument("--batches", choices=("sorted", "random", "buckets"), default="sorted")
    parser.add_argument("--adam", choices=("fused", "foreach", "plain"), default="fused")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the draw of batches")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--runs", type=int, default=1, help="trainings side by side; more than one only as graphs"
    )
    parser.add_argument("--precision", choices=("float32", "tf32", "float64"), default="float32")
    parser.add_argument(
        "--gradients", type=Path, help="write loss and gradients of one batch there and end"
    )
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        options.precision == "tf32"
    )
    keep_freed_memory()
    dtype = torch.float64 if options.precision == "float64" else torch.float32
    params = dict(np.load(options.folder / "params.npz"))
    weights = torch.from_numpy(np.load(options.folder / "class_weights.npy")).to(
        options.device, dtype
    )
    corpus = torch_batches.read(options.folder, torch_crnn.CHANNELS[options.system], dtype)
    runs = []
    for _ in range(options.runs):
        model = torch_crnn.SYSTEMS[options.system](options.form, options.lstm == "packed").to(dtype)
        torch_crnn.load(model, params)
        runs.append(Run(model.to(options.device), weights, options.adam))
    if options.gradients:
        write_gradients(options.gradients, runs[0], corpus, options.form, list(params))
        return
    if options.device == "cuda" and options.batches == "buckets":
        epoch = graphs_epoch(runs, corpus, options.form)
    else:
        epoch = eager_epoch(runs[0], corpus, options.batches, options.form)
    print(json.dumps({"torch": torch.__version__, "numpy": np.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        begin = time.perf_counter()
        epoch()
        loss = sum(float(run.loss_sum) for run in runs)
        print(json.dumps({"seconds": time.perf_counter() - begin, "loss_sum": loss}), flush=True)
        for run in runs:
            run.loss_sum.zero_()


if __name__ == "__main__":
    main()
