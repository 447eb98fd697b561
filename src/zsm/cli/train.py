"""Train a network from a configuration file; run it again with the same folder to go on after a stop.

On N GPUs: torchrun --no-python --nproc-per-node=N zsm train --device cuda ...
"""

import argparse
from pathlib import Path

SUMMARY = "train a network"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the configuration, a TOML file")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data set's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where prepared footage is kept (OUT/footage)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads (all cores)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def execute(args: argparse.Namespace) -> int:
    """Load the configuration, prepare the data, train."""
    import logging

    import torch

    from zsm.training import config, distributed, sources
    from zsm.training.trainer import Trainer

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    settings = config.load(args.config)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    cache = args.cache or args.out / "footage"
    with distributed.join(args.device) as processes:
        if not processes.first:
            processes.wait()  # until the first has prepared what all then read
        found = sources.find(settings.data, args.data, cache, settings.run.validation_septuplets)
        if processes.first:
            processes.wait()
        Trainer(settings, found, args.out, processes).run()
    return 0
