"""Tables that more than one command prints."""

from rich.table import Table

from zsm.engine import Manifest
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
