"""conda-store's API, ``/api/v1``."""
