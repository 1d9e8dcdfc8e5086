"""A small speech model as an ONNX file, written without the package onnx, and what it computes.

Waves [rows, samples]: a convolution of 400 samples every 160 → "frames" [rows, T, 4], their
absolute values "rectified", and their mean over time "pooled" [rows, 4].
"""

import struct
from pathlib import Path

import numpy as np

WINDOW, HOP, WIDTH = 400, 160, 4
FLOAT, INT64 = 1, 7


def weights(seed: int = 0) -> np.ndarray:
    """[WIDTH, 1, WINDOW] f32."""
    return np.random.default_rng(seed).normal(size=(WIDTH, 1, WINDOW)).astype(np.float32)


def frames(wave: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns [T, WIDTH] of samples [S]."""
    cut = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    return cut @ weights(seed)[:, 0].T


def write(path: Path, seed: int = 0, rows: str | int = "rows") -> Path:
    """Writes the model."""
    nodes = [
        _node("Unsqueeze", ("waves", "axes"), "channel"),
        _node("Conv", ("channel", "kernel"), "bands", strides=[HOP]),
        _node("Transpose", ("bands",), "frames", perm=[0, 2, 1]),
        _node("Abs", ("frames",), "rectified"),
        _node("ReduceMean", ("frames",), "pooled", axes=[1], keepdims=0),
    ]
    constants = [_tensor("axes", np.array([1])), _tensor("kernel", weights(seed))]
    outputs = [_value(name, (rows, "time", WIDTH)) for name in ("frames", "rectified")]
    outputs.append(_value("pooled", (rows, WIDTH)))
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"tiny")
    graph += b"".join(_bytes(5, constant) for constant in constants)
    graph += _bytes(11, _value("waves", (rows, "samples")))
    graph += b"".join(_bytes(12, output) for output in outputs)
    path.write_bytes(_int(1, 8) + _bytes(7, graph) + _bytes(8, _int(2, 13)))
    return path


# --- Protocol buffers, as far as onnx.proto needs them


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _node(kind: str, inputs: tuple[str, ...], output: str, **attributes: int | list[int]) -> bytes:
    found = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind)
    for name, value in attributes.items():
        if isinstance(value, int):
            content = _int(3, value) + _int(20, 2)
        else:
            content = b"".join(_int(8, one) for one in value) + _int(20, 7)
        found += _bytes(5, _bytes(1, name) + content)
    return found


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = FLOAT if values.dtype == np.float32 else INT64
    code = "f" if kind == FLOAT else "q"
    raw = struct.pack(f"<{values.size}{code}", *values.ravel().tolist())
    return b"".join(_int(1, side) for side in values.shape) + (
        _int(2, kind) + _bytes(8, name) + _bytes(9, raw)
    )


def _value(name: str, shape: tuple[str | int, ...]) -> bytes:
    sides = (_int(1, side) if isinstance(side, int) else _bytes(2, side) for side in shape)
    tensor = _int(1, FLOAT) + _bytes(2, b"".join(_bytes(1, side) for side in sides))
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor))
