import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.training.moving import Frames, gliding, texture, write_clip
from torch.utils.data import DataLoader

from zsm.errors import ArgumentError, DataError, VideoError
from zsm.evaluation import bicubic, layouts
from zsm.evaluation.degradations import H264, Noise
from zsm.training import sources
from zsm.training.config import Data
from zsm.training.data import Examples, FootageSeptuplets, ImageSeptuplets, Turn
from zsm.training.footage import Preparation, prepare, septuplet_starts
from zsm.training.trainer import Numbers

SMALL = Preparation(scales=(1.0, 0.5), least_side=32, greatest_side=64)


class Ramp:
    """One septuplet whose pixels say where and when they are: red is the column, green the row, blue time."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> tuple[Frames, Frames, Frames]:
        t, y, x = np.mgrid[0:7, 0:64, 0:80]
        hr = np.stack((x, y, t), -1).astype(np.uint8)
        return hr, hr[:, ::4, ::4], hr[::2, ::4, ::4]


def test_footage_is_kept_at_every_size_within_the_limits(footage_folder: Path, tmp_path: Path) -> None:
    clips = layouts.find(footage_folder)
    found = {footage.name: footage for footage in prepare(clips, tmp_path, SMALL)}
    assert sorted(found) == [f"clip{n}@{size}" for n in range(3) for size in ("0.5", "1")]
    whole, half = found["clip1@1"], found["clip1@0.5"]
    original = clips[1].read()
    np.testing.assert_array_equal(whole.hr, original)
    np.testing.assert_array_equal(whole.lr()[3], bicubic.resize(original[3], 0.25))
    areas = original.reshape(10, 32, 2, 40, 2, 3).mean((2, 4))
    np.testing.assert_allclose(half.hr, areas, atol=0.51)
    assert whole.starts.tolist() == [0, 1, 2, 3]


def test_the_limits_are_those_of_the_shorter_side(tmp_path: Path) -> None:
    write_clip(tmp_path / "data" / "portrait", gliding(8, 96, 48))
    found = prepare(layouts.find(tmp_path / "data"), tmp_path / "cache", SMALL)
    assert [footage.hr.shape[1:3] for footage in found] == [(96, 48)]


def test_several_processes_prepare_the_same_footage(footage_folder: Path, tmp_path: Path) -> None:
    clips = layouts.find(footage_folder)
    preparation = replace(SMALL, compressed=1)
    alone, shared = (prepare(clips, tmp_path / str(workers), preparation, workers) for workers in (0, 2))
    assert [footage.name for footage in alone] == [footage.name for footage in shared]
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one.hr, other.hr)
        for version in range(2):
            np.testing.assert_array_equal(one.lr(version), other.lr(version))
        np.testing.assert_array_equal(one.starts, other.starts)


def test_an_error_in_a_process_that_prepares_footage_arrives_as_it_is(tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"one\.mp4"):
        prepare(layouts.find(tmp_path), tmp_path / "cache", SMALL, workers=2)


def test_footage_too_small_for_the_crops_is_refused_before_training(footage_folder: Path, tmp_path: Path) -> None:
    data = Data(crop=16, preparation=Preparation(scales=(0.5,), least_side=32))
    with pytest.raises(DataError, match=r"clip0@0\.5 has frames of 40x32, too small for crops of 64"):
        sources.find(data, footage_folder, tmp_path, septuplets=1)


def test_footage_is_prepared_once_and_again_when_it_changes(footage_folder: Path, tmp_path: Path) -> None:
    clips = layouts.find(footage_folder)[:1]
    note = tmp_path / "clip0@1" / "footage.json"
    prepare(clips, tmp_path, SMALL)
    written = note.stat().st_mtime_ns
    prepare(clips, tmp_path, SMALL)
    assert note.stat().st_mtime_ns == written
    for image in clips[0].source.iterdir():
        os.utime(image, (1, 1))
    prepare(clips, tmp_path, SMALL)
    assert note.stat().st_mtime_ns > written


def test_runs_that_differ_in_what_is_still_share_footage(footage_folder: Path, tmp_path: Path) -> None:
    (footage, _) = prepare(layouts.find(footage_folder)[:1], tmp_path, SMALL)
    hr = footage.hr
    with pytest.raises(DataError, match="no seven consecutive moving frames"):
        prepare(layouts.find(footage_folder)[:1], tmp_path, replace(SMALL, still=100))
    np.testing.assert_array_equal(footage.hr, hr)
    (again, _) = prepare(layouts.find(footage_folder)[:1], tmp_path, SMALL)
    np.testing.assert_array_equal(again.starts, footage.starts)


def test_footage_is_prepared_again_when_an_image_is_edited(tmp_path: Path) -> None:
    frames = gliding(8, 32, 40)
    write_clip(tmp_path / "data" / "clip", frames)
    preparation = Preparation(scales=(1.0,), least_side=32)
    prepare(layouts.find(tmp_path / "data"), tmp_path / "cache", preparation)
    edited = frames[2] // 8 * 8
    cv2.imwrite(str(tmp_path / "data" / "clip" / "im3.png"), edited[..., ::-1])
    (footage,) = prepare(layouts.find(tmp_path / "data"), tmp_path / "cache", preparation)
    np.testing.assert_array_equal(footage.hr[2], edited)


def test_a_clip_has_a_clean_version_and_compressed_ones(footage_folder: Path, tmp_path: Path) -> None:
    clips = layouts.find(footage_folder)[:1]
    preparation = Preparation(scales=(1.0,), least_side=32, compressed=2)
    (footage,) = prepare(clips, tmp_path / "one", preparation)
    versions = np.stack([footage.lr(version) for version in range(3)])
    assert versions.shape == (3, 10, 16, 20, 3)
    clean = bicubic.resize(footage.hr, 0.25)
    np.testing.assert_array_equal(versions[0], clean)
    off = [np.abs(version.astype(int) - clean).mean() for version in versions]
    assert 0 < min(off[1:]) < max(off[1:]) < 30
    (again,) = prepare(clips, tmp_path / "two", preparation)
    np.testing.assert_array_equal(versions, [again.lr(version) for version in range(3)])


def test_runs_that_differ_in_versions_and_sizes_share_prepared_footage(footage_folder: Path, tmp_path: Path) -> None:
    clips = layouts.find(footage_folder)
    prepare(clips, tmp_path, SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    more = replace(SMALL, scales=(1.0, 0.5, 0.25), least_side=16, compressed=1)
    assert {footage.versions for footage in prepare(clips, tmp_path, more)} == {2}
    added = {path.name for path in tmp_path.glob("clip?@1/*") if path not in before}
    assert added == {"lr-1.npy"}
    prepare(clips, tmp_path, SMALL)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_footage_that_was_damaged_is_prepared_again(footage_folder: Path, tmp_path: Path) -> None:
    clips = layouts.find(footage_folder)[:1]
    (footage,) = prepare(clips, tmp_path, replace(SMALL, scales=(1.0,)))
    whole = np.array(footage.hr)
    (footage.folder / "footage.json").write_text("")
    (footage.folder / "hr.npy").write_bytes(b"")
    (again,) = prepare(clips, tmp_path, replace(SMALL, scales=(1.0,)))
    np.testing.assert_array_equal(again.hr, whole)


def test_preparing_a_clip_takes_hardly_more_memory_than_the_clip(tmp_path: Path) -> None:
    frames = gliding(60, 64, 82)
    write_clip(tmp_path / "data" / "clip", frames)
    tracemalloc.start()
    (footage,) = prepare(layouts.find(tmp_path / "data"), tmp_path / "cache", replace(SMALL, scales=(1.0,)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * frames.nbytes
    np.save(tmp_path / "frames.npy", frames[:, :, :80])
    assert (footage.folder / "hr.npy").read_bytes() == (tmp_path / "frames.npy").read_bytes()


def test_a_clip_with_a_broken_link_gives_one_message(tmp_path: Path) -> None:
    write_clip(tmp_path / "data" / "clip", gliding(8, 32, 40))
    (tmp_path / "data" / "clip" / "notes.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="clip can't be read"):
        prepare(layouts.find(tmp_path / "data"), tmp_path / "cache", SMALL)


def test_many_clips_do_not_keep_their_files_open(footage_folder: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    footage = prepare(layouts.find(footage_folder), tmp_path, SMALL)
    septuplets = FootageSeptuplets(footage)
    for number in range(len(septuplets)):
        septuplets[number][1].sum()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_epoch_holds_every_version_of_every_septuplet(footage_folder: Path, tmp_path: Path) -> None:
    preparation = Preparation(scales=(1.0,), least_side=32, compressed=1)
    footage = prepare(layouts.find(footage_folder), tmp_path, preparation)
    septuplets = FootageSeptuplets(footage)
    seen = {tuple(frames.tobytes() for frames in septuplets[number]) for number in range(len(septuplets))}
    expected = {
        (
            clip.hr[start : start + 7].tobytes(),
            clip.lr()[start : start + 7].tobytes(),
            version[start : start + 7 : 2].tobytes(),
        )
        for clip in footage
        for version in map(clip.lr, range(clip.versions))
        for start in clip.starts
    }
    assert seen == expected
    assert len(septuplets) == len(expected) == 3 * 2 * 4


def test_held_out_clips_stay_clean_and_are_validated_again_degraded(footage_folder: Path, tmp_path: Path) -> None:
    preparation = Preparation(scales=(1.0,), least_side=32, compressed=1)
    data = Data(crop=8, hold_out=("clip1",), preparation=preparation, validate_degraded=("h264:40",))
    clean, degraded = sources.find(data, footage_folder, tmp_path, septuplets=1).held_out
    assert (clean.name, degraded.name) == ("clip1", "clip1 h264:40")
    np.testing.assert_array_equal(clean.hr, degraded.hr)
    np.testing.assert_array_equal(clean.lr, bicubic.resize(clean.hr, 0.25)[::2])
    np.testing.assert_array_equal(degraded.lr, H264(crf=40)(clean.lr, np.random.default_rng(0)))


def test_no_septuplet_crosses_a_cut_or_stands_still() -> None:
    other = np.round(texture(48, 64, seed=9) * 40).astype(np.uint8)
    clip = np.concatenate((gliding(9, 48, 64), np.repeat(other[None], 10, axis=0)))
    assert septuplet_starts(list(clip), still=0.5).tolist() == [0, 1, 2]


def test_footage_without_motion_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "still", np.repeat(gliding(1, 64, 80), 10, axis=0))
    with pytest.raises(DataError, match="still"):
        prepare(layouts.find(tmp_path), tmp_path / "cache", SMALL)


def test_held_out_clips_are_not_trained_on(footage_folder: Path, tmp_path: Path) -> None:
    data = Data(crop=8, hold_out=("clip1",), preparation=SMALL)
    found = sources.find(data, footage_folder, tmp_path, septuplets=2)
    assert [held.name for held in found.held_out] == ["clip1 1", "clip1 2"]
    assert len(found.training) == 2 * 2 * 4
    with pytest.raises(ArgumentError, match="nobody"):
        sources.find(Data(hold_out=("nobody",)), footage_folder, tmp_path, septuplets=1)


def test_all_septuplets_of_a_short_clip_can_be_held_out(footage_folder: Path, tmp_path: Path) -> None:
    data = Data(crop=8, hold_out=("clip1",), preparation=replace(SMALL, scales=(1.0,)))
    held_out = sources.find(data, footage_folder, tmp_path, septuplets=9).held_out
    clip = layouts.find(footage_folder)[1].read()
    for start, held in enumerate(held_out):
        np.testing.assert_array_equal(held.hr, clip[start : start + 7])
    assert len(held_out) == 4


def test_vimeo_trains_on_its_training_list_and_validates_on_its_test_list(tmp_path: Path) -> None:
    names = ["00001/0001", "00001/0002", "00002/0001"]
    for seed, name in enumerate(names):
        write_clip(tmp_path / "sequences" / name, gliding(7, 64, 96, seed=seed))
    (tmp_path / "sep_trainlist.txt").write_text("\n".join(names[:2]) + "\n")
    (tmp_path / "sep_testlist.txt").write_text(names[2] + "\n")
    found = sources.find(Data(layout="vimeo"), tmp_path, tmp_path / "cache", septuplets=5)
    assert len(found.training) == 2
    np.testing.assert_array_equal(found.held_out[0].hr, gliding(7, 64, 96, seed=2))
    hr, lr, inputs = found.training[1]
    np.testing.assert_array_equal(hr, gliding(7, 64, 96, seed=1))
    assert isinstance(found.training, ImageSeptuplets)
    np.testing.assert_array_equal(lr, bicubic.resize(hr, 0.25))
    np.testing.assert_array_equal(inputs, lr[::2])


def test_crops_of_lr_and_hr_show_the_same_place() -> None:
    examples = Examples(septuplets=Ramp(), seed=1, crop=8)
    seen = set()
    for number in range(40):
        inputs, lr, hr, _ = examples[number]
        torch.testing.assert_close(inputs, lr[::2], rtol=0, atol=0)
        assert lr.shape == (7, 3, 8, 8)
        assert hr.shape == (7, 3, 32, 32)
        # The LR pixel is one of the HR block's corners: which, depends on the turn.
        blocks = hr.unflatten(-1, (8, 4)).unflatten(-3, (8, 4))
        corners = [blocks[:, :, :, y, :, x] for y in (0, 3) for x in (0, 3)]
        assert any(torch.equal(lr, corner) for corner in corners)
        seen.add(tuple(lr[0, :, 0, 0].tolist()))
    assert len(seen) > 20


def test_of_each_septuplet_some_outputs_are_drawn() -> None:
    examples = Examples(septuplets=Ramp(), seed=1, crop=8, outputs=3)
    drawn = [examples[number][3].tolist() for number in range(100)]
    assert all(len(times) == 3 and times == sorted(set(times)) for times in drawn)
    assert {time for times in drawn for time in times} == set(range(7))
    everything = Examples(septuplets=Ramp(), seed=1, crop=8)
    assert everything[0][3].tolist() == list(range(7))
    for number in range(10):
        _, _, hr, times = examples[number]
        torch.testing.assert_close(hr, everything[number][2][times], rtol=0, atol=0)


def test_turns_are_the_sixteen_symmetries() -> None:
    hr, _, _ = Ramp()[0]
    square = hr[:, :64, :64]
    turned = {
        Turn(quarters=quarters, mirrored=mirrored, reversed=backward)(square).tobytes()
        for quarters in range(4)
        for mirrored in (False, True)
        for backward in (False, True)
    }
    assert len(turned) == 16
    rng = np.random.default_rng(0)
    assert len({Turn.draw(rng) for _ in range(400)}) == 16


def test_each_example_is_the_same_whoever_loads_it(footage_folder: Path, tmp_path: Path) -> None:
    found = sources.find(Data(crop=8, preparation=SMALL), footage_folder, tmp_path, septuplets=1)
    examples = Examples(septuplets=found.training, seed=7, crop=8, candidates=2, degradation=Noise(sigma=5))
    one, two = (
        next(iter(DataLoader(examples, batch_sampler=Numbers(3, 4, range(4)), num_workers=workers)))
        for workers in (0, 1)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    other = Examples(septuplets=found.training, seed=8, crop=8, candidates=2, degradation=Noise(sigma=5))
    assert not torch.equal(other[12][0], one[0][0])


def test_only_the_input_is_degraded() -> None:
    """What guidance compares with, eqs. 8 and 9, stays clean, the frames of the input included."""
    clean = Examples(septuplets=Ramp(), seed=1, crop=8)
    noisy = Examples(septuplets=Ramp(), seed=1, crop=8, degradation=Noise(sigma=20))
    for number in range(5):
        assert not torch.equal(noisy[number][0], clean[number][0])
        for found, expected in zip(noisy[number][1:], clean[number][1:], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_epoch_holds_every_septuplet_once(footage_folder: Path, tmp_path: Path) -> None:
    found = sources.find(Data(crop=8, preparation=SMALL), footage_folder, tmp_path, septuplets=1)
    asked: list[int] = []

    class Asked:
        def __len__(self) -> int:
            return len(found.training)

        def __getitem__(self, number: int) -> tuple[Frames, Frames, Frames]:
            asked.append(number)
            return found.training[number]

    examples = Examples(septuplets=Asked(), seed=0, crop=8)
    epochs = []
    for epoch in range(2):
        asked.clear()
        for number in range(len(found.training)):
            examples[epoch * len(found.training) + number]
        epochs.append(list(asked))
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(len(found.training)))
    assert epochs[0] != epochs[1]


def test_of_several_places_the_most_moving_is_taken() -> None:
    still = np.round(texture(256, 256, seed=0) * 255).astype(np.uint8)
    clip = np.repeat(still[None], 7, axis=0)
    clip[:, 128:, 128:] = gliding(7, 128, 128, speed=4)

    class Corner:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> tuple[Frames, Frames, Frames]:
            lr = np.stack([cv2.resize(f, (64, 64), interpolation=3).astype(np.uint8) for f in clip])
            return clip, lr, lr[::2]

    def moving(candidates: int) -> int:
        examples = Examples(septuplets=Corner(), seed=0, crop=8, candidates=candidates)
        return sum(bool((examples[n][1].float().diff(dim=0).abs().mean() > 1.3).item()) for n in range(40))

    assert moving(8) > moving(1) + 10


def test_frames_smaller_than_a_crop_are_refused() -> None:
    with pytest.raises(DataError, match="80x64, too small for crops of 128"):
        Examples(septuplets=Ramp(), seed=0, crop=32)[0]
