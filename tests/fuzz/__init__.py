"""What is thrown at the readers of scripts' metadata: see ``test_fuzz.py``, and :mod:`fuzz.guided` for atheris."""
