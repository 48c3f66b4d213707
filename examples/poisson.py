#!/usr/bin/env python
"""Print five random numbers from a Poisson distribution."""

# conda execute
# env:
#  - python >=3
#  - numpy

import numpy as np

print(np.random.default_rng().poisson(size=5))
