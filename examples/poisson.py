#!/usr/bin/env python
"""Prints five numbers of a Poisson distribution, drawn by numpy."""

# conda execute
# env:
#  - python >=3
#  - numpy

import numpy as np

print(np.random.default_rng().poisson(size=5))
