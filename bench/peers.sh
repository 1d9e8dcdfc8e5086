#!/bin/sh
# Makes bench/.venv, the environment of the peers that ser_jax is measured against. May be run again at any time.
#   PYTHON               interpreter to make it with; default python3
#   PIP_EXTRA_INDEX_URL  pip's own: https://download.pytorch.org/whl/cpu gives the CPU build, without CUDA's gigabytes
set -eu
cd "$(dirname "$0")"

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet torch==2.13.0 numpy librosa kaldi-native-fbank opensmile
.venv/bin/python -m pip list | grep -iE '^(torch|numpy|librosa|kaldi.native.fbank|opensmile) '
