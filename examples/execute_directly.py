#!/usr/bin/env conda-execute
"""Print the version of numpy, and where it is. The shebang is conda-execute, which cetool installs too."""

# conda execute
# env:
#  - python >=3
#  - numpy
# run_with: python

import sys

import numpy as np

print(f"numpy {np.__version__} in {sys.prefix}")
