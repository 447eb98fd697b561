"""Train a network from a configuration file. Run the same command again to continue after a stop.

On N GPUs: torchrun --no-python --nproc-per-node=N zsm train --device cuda ...
"""

import argparse
from pathlib import Path

from zsm.cli import options
from zsm.errors import ArgumentError

SUMMARY = "train a network"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data set's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="prepared footage (default: OUT/footage)")
    parser.add_argument(
        "--device", type=options.device, default="cpu", metavar="NAME", help="cpu or cuda:N (default: %(default)s)"
    )
    options.add_threads(parser)
    options.add_json(parser)


def execute(args: argparse.Namespace) -> int:
    import json
    import logging

    import torch

    from zsm.limits import cores
    from zsm.training import config, distributed, sources
    from zsm.training.trainer import Trainer

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    settings = config.load(args.config)
    if args.cache is not None and settings.data.layout == "vimeo":
        raise ArgumentError("--cache is for clips that are prepared, but the configuration has data.layout vimeo")
    torch.set_num_threads(args.threads or min(torch.get_num_threads(), cores()))  # torch doesn't see CPU quotas
    cache = args.cache or args.out / "footage"
    with distributed.join(args.device) as processes:
        trainer = Trainer(settings, args.out, processes)  # refuses what it must before footage is prepared
        if not processes.first:
            processes.wait()  # the first process prepares what all of them read
        run = settings.run
        found = sources.find(settings.data, args.data, cache, run.validation_septuplets, run.workers)
        if processes.first:
            processes.wait()
        trainer.run(found)
    if args.json and processes.first:
        print(json.dumps({"weights": str(args.out / "latest.safetensors")}, indent=1))
    return 0
