"""The panels of options on help pages. Help imports nothing that declares options."""

ENVIRONMENT = "Environment"
REPRODUCIBILITY = "Reproducibility"
REMOTE = "Remote scripts"
OVERLAY = "Overlays"
NOTEBOOK = "Notebooks"
OUTPUT = "Output"
#: The panels of options in the order in which help shows them; the first has what belongs to one command.
PANELS = ("Options", ENVIRONMENT, REPRODUCIBILITY, REMOTE, OVERLAY, NOTEBOOK, OUTPUT)
