"""The recurrent layers as textbook loops in NumPy: oracles for layers and systems."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(inputs, kernel, recurrent_kernel, bias):
    """The textbook loop: one row, one step at a time."""
    units = recurrent_kernel.shape[0]
    out = np.zeros((*inputs.shape[:2], units))
    for row in range(inputs.shape[0]):
        h, c = np.zeros(units), np.zeros(units)
        for t in range(inputs.shape[1]):
            z = inputs[row, t] @ kernel + h @ recurrent_kernel + bias
            i, f, g, o = (z[k * units : (k + 1) * units] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out[row, t] = h
    return out


def numpy_gru(inputs, kernel, recurrent_kernel, bias):
    """Cho et al. 2014, with biases: one row, one step, one gate at a time."""
    units = recurrent_kernel.shape[0]
    out = np.zeros((*inputs.shape[:2], units))
    for row in range(inputs.shape[0]):
        h = np.zeros(units)
        for t in range(inputs.shape[1]):
            part = [slice(k * units, (k + 1) * units) for k in range(3)]
            x_r, x_u, x_c = (inputs[row, t] @ kernel[:, gate] + bias[gate] for gate in part)
            r = sigmoid(x_r + h @ recurrent_kernel[:, part[0]])
            u = sigmoid(x_u + h @ recurrent_kernel[:, part[1]])
            c = np.tanh(x_c + (r * h) @ recurrent_kernel[:, part[2]])
            h = u * h + (1 - u) * c
            out[row, t] = h
    return out
