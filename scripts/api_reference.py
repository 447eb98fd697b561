"""Write the API reference, as HTML made from the docstrings, to a folder: `python scripts/api_reference.py FOLDER`."""

import importlib
import os
import sys
import warnings
from pathlib import Path

import pdoc

MODULES = (
    "zsm",
    "zsm.cluster",
    "zsm.engine",
    "zsm.errors",
    "zsm.evaluation",
    "zsm.export",
    "zsm.hosts.triton",
    "zsm.runtime",
    "zsm.runtime.video",
    "zsm.training.config",
)


def main(folder: Path) -> None:
    os.environ["PDOC_ALLOW_EXEC"] = "1"  # PySceneDetect runs ffmpeg when it is imported
    warnings.filterwarnings("error", module=r"pdoc\.")
    for name in MODULES:
        module = importlib.import_module(name)
        # pdoc only sees what a module holds already; ours import some names on first use.
        for public in getattr(module, "__all__", ()):
            vars(module)[public] = getattr(module, public)
    pdoc.render.configure(footer_text=f"zsm {importlib.import_module('zsm').__version__}")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
