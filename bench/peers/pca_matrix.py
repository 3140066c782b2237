"""The matrices of the PCA comparison, the same on every machine.

    pca_matrix.py ROWSxCOLUMNS f32|f64 FILE.npy

A hundred directions of falling weight, noise in all columns, and a mean: principal components that
are apart, as those of features are, and no column that is zero. Written block by block.
"""

import os
import re
import sys

import numpy as np

DIRECTIONS = 100
BLOCK_BYTES = 1 << 26


def write(path, rows, columns, dtype):
    """Writes the matrix aside and renames it, so that a file that is there is whole."""
    directions = np.random.default_rng(1).standard_normal((DIRECTIONS, columns))
    directions *= (0.97 ** np.arange(DIRECTIONS))[:, None]
    mean = np.random.default_rng(2).standard_normal(columns)
    aside = f"{path}.part"
    matrix = np.lib.format.open_memmap(aside, "w+", dtype, (rows, columns))
    step = max(1, BLOCK_BYTES // (8 * columns))
    for first in range(0, rows, step):
        random = np.random.default_rng([3, first])
        count = min(step, rows - first)
        block = random.standard_normal((count, DIRECTIONS)) @ directions
        block += random.standard_normal((count, columns)) + mean
        matrix[first : first + count] = block
    matrix.flush()
    del matrix
    os.rename(aside, path)


def parse(text):
    """Rows and columns of `ROWSxCOLUMNS`."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise ValueError(f"expected ROWSxCOLUMNS such as 20000x2048, not {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    size, kind, target = sys.argv[1:]
    write(target, *parse(size), {"f32": np.float32, "f64": np.float64}[kind])
