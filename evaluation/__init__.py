"""Measure restored frames: metrics, the baseline, data sets, scoring and reports. No torch.

| module | contains |
|---|---|
| `bicubic` | MATLAB's `imresize`, which makes LR frames and the baseline's enlargement |
| `degradations` | noise and compression for LR frames (section 4.3) |
| `metrics` | PSNR and SSIM on luma, temporal consistency |
| `baseline` | bicubic enlargement and frame averaging |
| `layouts` | data sets on disk, as clips |
| `systems` | what can be scored: a bundle, another system's frames, the baseline |
| `scoring` | clips and systems in, scores out |
| `pictures` | crops and side-by-side pictures |
| `report`, `page` | scores as a table, JSON and HTML |
"""
