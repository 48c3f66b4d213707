#!/usr/bin/env conda-execute
"""Runs itself: its shebang names conda-execute, the older name that cetool answers to as well."""

# conda execute
# env:
#  - python >=3
#  - numpy
# run_with: python

import sys

import numpy as np

print(f"numpy {np.__version__} in {sys.prefix}")
