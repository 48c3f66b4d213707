"""Fuzzing of the readers of metadata and files: see ``test_fuzz.py``, and :mod:`fuzz.guided` for atheris."""
