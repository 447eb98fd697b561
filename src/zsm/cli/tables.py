"""Tables that more than one command prints."""

from rich.table import Table

from zsm.engine import Manifest
from zsm.engine.bundle.manifest import Quantisation
from zsm.engine.bundle.shapes import Size


def stage_table(manifest: Manifest, size: Size) -> Table:
    """A bundle's stages: parameters, bytes, and the arithmetic of one call at an LR size."""
    table = Table(title=f"stages ({manifest.precision}), one call at {size}", title_justify="left")
    table.add_column("stage")
    for column in ("parameters", "GFLOP", "bytes"):
        table.add_column(column, justify="right")
    stages = manifest.stages.values()
    for name, stage in manifest.stages.items():
        gflop = stage.flop_per_pixel * size.pixels / 1e9
        table.add_row(name, f"{stage.parameters:,}", f"{gflop:,.2f}" if gflop else "", f"{stage.bytes:,}")
    table.add_section()
    table.add_row("all", f"{sum(s.parameters for s in stages):,}", "", f"{sum(s.bytes for s in stages):,}")
    return table


def precision_text(manifest: Manifest) -> str:
    """The precision, such as `fp32 with int8 (83% of the arithmetic)`."""
    if manifest.quantisation is None:
        return manifest.precision
    return f"{manifest.precision} with int8 ({manifest.quantisation.share:.0%} of the arithmetic)"


def quantisation_table(quantisation: Quantisation) -> Table:
    """What quantising each block was measured to cost, the most tolerant first."""
    result = Table(
        title=f"INT8: {quantisation.share:.0%} of the arithmetic for {quantisation.loss:.3f} dB "
        f"(worst clip {quantisation.worst:.3f} dB; ranges by {quantisation.method})",
        title_justify="left",
    )
    result.add_column("stage")
    result.add_column("block")
    for column in ("share", "loss dB", "worst dB"):
        result.add_column(column, justify="right")
    result.add_column("int8")
    for block in sorted(quantisation.blocks, key=lambda each: each.loss):
        figures = (f"{block.share:.2%}", f"{block.loss:.4f}", f"{block.worst:.4f}")
        result.add_row(block.stage, block.block, *figures, "yes" if block.admitted else "no")
    return result
