"""A file of every dtype that numpy has, written by the Python package `safetensors` (0.8.0, numpy 2.4).

usage: make_safetensors.py OUT.safetensors
"""
import sys

import numpy as np
from safetensors.numpy import save_file

save_file(
    {
        "f64": np.array([0.1, 1e-300, -np.inf]),
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3) - np.float32(2.5),
        "f16": np.array([0.5, 65504.0], dtype=np.float16),
        "i64": np.array([-(2**63), 2**63 - 1]),
        "i32": np.array([[1], [-1], [2_000_000_000]], dtype=np.int32),
        "i16": np.array([-32768], dtype=np.int16),
        "i8": np.array([-128, 127], dtype=np.int8),
        "u8": np.array([255, 0], dtype=np.uint8),
        "bool": np.array([True, False]),
        "none": np.zeros((0, 4), dtype=np.float32),
        "scalar": np.array(7.0, dtype=np.float32),
    },
    sys.argv[1],
    metadata={"format": "np"},
)
