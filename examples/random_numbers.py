#!/usr/bin/env cetool
"""Print random numbers from a normal distribution: five, or as many as given (``random_numbers.py 3``)."""

# conda execute
# env:
#  - python >=3
#  - numpy

import sys

import numpy as np

count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
print(np.random.default_rng().normal(size=count))
