"""A plot of what quantising each block costs and gains."""

from html import escape

from zsm.engine.bundle.manifest import Quantisation

WIDTH, ROW, LEFT, TOP = 760, 16, 240, 40


def svg(quantisation: Quantisation) -> str:
    """Each block's loss in dB as a bar; filled where the block is int8."""
    largest = max(max(block.loss for block in quantisation.blocks), 1e-4)
    height = TOP + ROW * len(quantisation.blocks) + 8
    rows = []
    for number, block in enumerate(quantisation.blocks):
        y = TOP + ROW * number
        length = max(1.0, (WIDTH - LEFT - 80) * max(block.loss, 0.0) / largest)
        fill = "#2b6cb0" if block.admitted else "none"
        rows.append(
            f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(f"{block.stage} {block.block}")}</text>'
            f'<rect x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{ROW - 5}" fill="{fill}" stroke="#2b6cb0"/>'
            f'<text x="{LEFT + length + 6:.1f}" y="{y + 11}">{block.loss:.4f} dB, {block.share:.1%}</text>'
        )
    title = (
        f"Loss of Y-PSNR when one block is int8, and its part of the arithmetic; filled: int8 in this bundle "
        f"({quantisation.share:.0%} for {quantisation.loss:.3f} dB)"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="8" y="20" font-size="13">{escape(title)}</text>{"".join(rows)}</svg>\n'
    )
