"""What each setting and variable means, for help and the reference; :mod:`cetool.settings.settings` reads them."""

from __future__ import annotations

from dataclasses import dataclass

DURATION, SIZE, TRUTH, PATH, NAMES = "duration", "size", "true, false", "absolute path", "list of channels"


@dataclass(frozen=True)
class Meaning:
    """What a setting is for."""

    text: str
    #: the type, or the values that it can have
    kind: str
    #: what holds if it is not set
    default: str


#: The settings, the common ones first.
SETTINGS = {
    "engine": Meaning(
        "The engine that creates environments; `auto` takes the first found.",
        "mamba, micromamba, conda, rattler, auto",
        "auto",
    ),
    "channels": Meaning("Channels for scripts that declare none.", NAMES, "conda's configuration, else conda-forge"),
    "remove-if-unused-for": Meaning("How long an unused environment is kept.", DURATION, "25h"),
    "max-size": Meaning("The most that environments and downloads may take together.", f"{SIZE}, none", "none"),
    "auto-gc": Meaning("Whether to remove unused environments in the background.", TRUTH, "true"),
    "offline": Meaning("Whether to download nothing and use what the cache has.", TRUTH, "false"),
    "verbosity": Meaning("How much cetool reports.", "quiet, normal, verbose", "normal"),
    "trust": Meaning("Whether scripts from URLs that are new to you may run.", "ask, always, never", "ask"),
    "locked": Meaning("Whether to require a lock that matches the script.", TRUTH, "false"),
    "frozen": Meaning("Whether to use a lock even if the script has changed since.", TRUTH, "false"),
    "pip-installer": Meaning("The installer of PyPI packages; `auto` prefers uv.", "uv, pip, auto", "auto"),
    "user-site": Meaning("Whether scripts can import what `pip install --user` installed.", TRUTH, "false"),
    "stall-timeout": Meaning("How long an engine may show no progress before it is stopped.", DURATION, "5m"),
    "servers": Meaning(
        "Servers to ask for environments, in this order; `none` asks none.", "list of URLs, none", "none"
    ),
    "server-wait": Meaning("How long to wait for a server that is building.", DURATION, "1m"),
    "server-upload": Meaning("Whether to send a server the packages that it does not know yet.", TRUTH, "true"),
    "verify-channels": Meaning("Whether a server's packages must be in the script's channels.", TRUTH, "false"),
    "env-dir": Meaning("The directory of environments.", PATH, "envs in the cache directory"),
    "pkg-dir": Meaning("The package cache of the embedded engine, rattler.", PATH, "pkgs in the cache directory"),
    "overlays-dir": Meaning(
        "The directory of overlays; `{env_name}` is the name of the base.", PATH, "overlays in the cache directory"
    ),
    "trust-cache-dir": Meaning("Whether to use a cache that other users can change.", TRUTH, "false"),
}

#: The variables that are not settings.
VARIABLES = {
    "CETOOL_CACHE_DIR": Meaning("The cache directory.", PATH, "cetool in the user's cache directory"),
    "CETOOL_CONFIG_FILE": Meaning(
        "The configuration file.", PATH, "cetool/config.yaml in the user's configuration directory"
    ),
    "CETOOL_DATA_DIR": Meaning(
        "The directory with your answers about scripts from URLs.",
        PATH,
        "cetool in the user's data directory",
    ),
    "CETOOL_GITHUB_TOKEN": Meaning("The token for scripts in private repositories on GitHub.", "token", "none"),
    "CETOOL_RUN_MAX_RECURSION_DEPTH": Meaning("How deeply scripts that run cetool may be nested.", "number", "100"),
    "CETOOL_SERVER_TOKEN": Meaning("The token for the first server instead of the stored one.", "token", "none"),
    "CETOOL_TRACEBACK": Meaning("If set, cetool prints a Python traceback with each error.", "any value", "none"),
}
