#!/usr/bin/env python
"""Print a table of statistics with numpy from conda and tabulate from PyPI."""

# /// script
# requires-python = ">=3.9"
# dependencies = ["tabulate>=0.9"]
#
# [tool.conda]
# channels = ["conda-forge"]
# dependencies = ["numpy"]
# ///

import numpy as np
from tabulate import tabulate

samples = {
    "normal": np.random.default_rng(1).normal(size=1000),
    "uniform": np.random.default_rng(1).uniform(size=1000),
    "Poisson": np.random.default_rng(1).poisson(size=1000),
}
rows = [(name, sample.mean(), sample.std(), sample.max()) for name, sample in samples.items()]
print(tabulate(rows, headers=["distribution", "mean", "deviation", "greatest"], floatfmt=".3f"))
