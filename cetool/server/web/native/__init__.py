"""The native API, ``/cetool/1``."""
