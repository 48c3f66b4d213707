#!/usr/bin/env cetool
"""Prints five numbers of a normal distribution: how many can be given, ``random_numbers.py 3``."""

# conda execute
# env:
#  - python >=3
#  - numpy

import sys

import numpy as np

count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
print(np.random.default_rng().normal(size=count))
