"""How good the restored frames are: metrics, the baseline, data sets, scoring and reports. No torch.

| module | is |
|---|---|
| `bicubic` | MATLAB's `imresize`: how LR frames are made, and the baseline's enlargement |
| `degradations` | noise and JPEG artefacts on LR frames (section 4.3) |
| `metrics` | PSNR and SSIM on luma, temporal consistency |
| `baseline` | bicubic enlargement and frame averaging |
| `layouts` | data sets on disk -> clips |
| `systems` | what is scored: a bundle, another system's frames, the baseline |
| `scoring` | clips and systems -> figures |
| `pictures` | crops and side-by-side pictures |
| `report`, `page` | figures -> table and JSON, HTML |
"""
