"""Videos: their frames are predicted as the same images would be, in time and in a drawn copy."""

import json
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import SMALL, read
from PIL import Image
from support.in_process import run
from support.shared import made_once

from lightning_det.annotations import DatasetError, LabelMap
from lightning_det.data import video as video_module
from lightning_det.data.datamodule import MultiScaleData
from lightning_det.data.folder import without_boxes
from lightning_det.data.video import Video, write_video
from lightning_det.system.errors import UserError
from lightning_det.views import FocusPyramid, Planner

LOSSLESS = {"codec": "ffv1", "pix_fmt": "bgr0"}
PNG = {"codec": "png", "pix_fmt": "rgb24"}


def pictures(count=12, width=128, height=96):
    """A bright square that moves over noise."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 120, (count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        x = 4 + 3 * number
        made[number, 20:50, x : x + 30] = (250, 200, 8 * number)
    return made


def encode(file, frames, codec="libx264", pix_fmt="yuv420p", rate=10, times=None, **options):
    """Writes a video; ``times`` are in milliseconds."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate, width=frames.shape[2], height=frames.shape[1], options=options)
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def content(video):
    return np.stack([video(n).permute(1, 2, 0).numpy() for n in range(len(video))])


# Reading


@pytest.mark.parametrize(("suffix", "how"), [("mkv", LOSSLESS), ("avi", LOSSLESS), ("mov", PNG)])
def test_frames_come_out_as_they_went_in(tmp_path, suffix, how):
    frames = pictures()
    video = Video(encode(tmp_path / f"a.{suffix}", frames, **how))
    assert (len(video), video.width, video.height, video.rate) == (12, 128, 96, 10)
    assert video.times == pytest.approx(np.arange(12) / 10, abs=1e-3)
    assert video.problems == []
    assert np.array_equal(content(video), frames)


def test_frames_are_read_once_while_they_are_asked_for_in_order(tmp_path, monkeypatch):
    frames = pictures()
    video = Video(encode(tmp_path / "a.mkv", frames, **LOSSLESS))
    opened, own = [], av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or own(*a, **k))
    for number in (0, 0, 2, 3, 3, 11):
        assert np.array_equal(video(number).permute(1, 2, 0), frames[number])
    assert len(opened) == 1
    for number in (5, 4):
        assert np.array_equal(video(number).permute(1, 2, 0), frames[number])
    assert len(opened) == 3
    assert video(4).data_ptr() != video(4).data_ptr()


def test_views_that_follow_read_the_frames_once_more(tmp_path, monkeypatch):
    """At every finer scale, while the loader is further in the video."""
    frames = pictures()
    video = Video(encode(tmp_path / "a.mkv", frames, **LOSSLESS))
    opened, own = [], av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or own(*a, **k))
    sides = np.full(len(frames), 96), np.full(len(frames), 128)
    store = without_boxes(Path(), [str(n) for n in range(len(frames))], *sides[::-1], LabelMap(["square"], [1]))
    planner = Planner(FocusPyramid([1.0, 0.5, 0.25], None, [0.0, 0.0], [16, 16]))
    data = MultiScaleData(None, store, planner, planner, test_batch_size=5, num_workers=0, frames=video)

    def seen(batch):
        yield from zip(batch.levels.tolist(), batch.index.tolist(), batch.images, strict=True)
        nothing = np.zeros((len(batch), 6, 8))
        for later in data.follow(batch, nothing, 16):
            yield from seen(later)

    found = [view for batch in data.inference_loader(store, video) for view in seen(batch)]
    assert sorted((level, image) for level, image, _ in found) == [(level, n) for level in range(3) for n in range(12)]
    assert all(np.array_equal(p.permute(1, 2, 0), frames[n]) for level, n, p in found if level == 0)
    assert len(opened) == 2


def test_loader_processes_get_a_copy_of_their_own(tmp_path):
    video = Video(encode(tmp_path / "a.mkv", pictures(), **LOSSLESS))
    assert torch.equal(pickle.loads(pickle.dumps(video))(7), video(7))


def test_times_of_frames_at_no_fixed_rate(tmp_path):
    times = [0, 100, 130, 200, 500, 510, 600, 700, 1000, 1100, 1200, 1300]
    video = Video(encode(tmp_path / "a.mkv", pictures(), times=times, **LOSSLESS))
    assert video.times == pytest.approx(np.array(times) / 1000, abs=1e-3)
    write_video(tmp_path / "b.mp4", content(video), video)
    assert Video(tmp_path / "b.mp4").times == pytest.approx(video.times, abs=1e-3)


@pytest.mark.parametrize(
    ("times", "found"),
    [
        ([0.04, 0.16, 0.12, 0.2, 0.08, 0.32], [0.04, 0.16, 0.26, 0.36, 0.46, 0.56]),  # out of order
        ([0.0, 0.1, 0.2, 0.0, 0.1, 0.2], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),  # two files, one behind the other
        ([0.0, 0.0, 0.001, 0.001, 0.9, 0.9], [0.0, 0.1, 0.2, 0.3, 0.9, 1.0]),
    ],
)
def test_times_rise(tmp_path, monkeypatch, times, found):
    """Some writers and joined files have others, which no mp4 file can hold."""
    file, own = encode(tmp_path / "a.mkv", pictures(6), **LOSSLESS), Video._decode

    def shuffled(self):
        for frame, time in zip(own(self), times, strict=True):
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            yield frame

    monkeypatch.setattr(Video, "_decode", shuffled)
    video = Video(file)
    assert video.times == pytest.approx(found)
    monkeypatch.undo()
    write_video(tmp_path / "b.mp4", content(video), video)
    assert Video(tmp_path / "b.mp4").times == pytest.approx(np.array(found) - found[0], abs=1e-3)


def test_more_frames_than_the_clock_of_the_file_has_ticks(tmp_path):
    """Matroska counts milliseconds."""
    video = Video(encode(tmp_path / "a.mkv", pictures(), rate=2000, **LOSSLESS))
    assert (np.diff(video.times) > 0).all()
    write_video(tmp_path / "b.mp4", content(video), video)
    assert len(Video(tmp_path / "b.mp4")) == 12


def test_a_turned_video_is_seen_upright(tmp_path):
    """As phones write them: rows of pixels as the sensor has them, and a matrix that turns them."""
    file = encode(tmp_path / "a.mp4", pictures(), crf="0")
    plain = content(Video(file))
    data = file.read_bytes()
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # box type, version, ids and times, layer and volume
    straight = b"".join(v.to_bytes(4, "big", signed=True) for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    assert data[place : place + 36] == straight
    quarter = b"".join(v.to_bytes(4, "big", signed=True) for v in (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    file.write_bytes(data[:place] + quarter + data[place + 36 :])
    video = Video(file)
    assert (video.width, video.height) == (96, 128)
    assert np.array_equal(content(video), np.rot90(plain, -1, axes=(1, 2)))  # a quarter clockwise


@pytest.mark.parametrize(("width", "height", "codec"), [(128, 96, "h264"), (127, 95, "mpeg4")])
def test_the_copy_has_rate_and_size_of_the_video(tmp_path, width, height, codec):
    frames = pictures(width=width, height=height)
    rate = Fraction(30_000, 1001)
    video = Video(encode(tmp_path / "a.mkv", frames, rate=rate, **LOSSLESS))
    write_video(tmp_path / "b.mp4", iter(frames), video)
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == (codec, width, height)
        assert float(stream.average_rate) == pytest.approx(float(rate), rel=0.01)
    copy = content(Video(tmp_path / "b.mp4")).astype(int)
    assert copy.shape == frames.shape
    assert np.abs(copy - frames)[:, 22:48, 45:50].mean() < 25  # inside the square
    assert np.abs(copy - frames[::-1]).mean() > np.abs(copy - frames).mean()


# Bad input


def test_a_video_that_is_cut_off_is_used_up_to_there(tmp_path):
    frames = pictures(30)
    file = encode(tmp_path / "a.mkv", frames, **LOSSLESS)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    video = Video(file)
    assert 10 <= len(video) <= 15
    assert np.array_equal(content(video), frames[: len(video)])
    (problem,) = video.problems
    assert problem.record == f"frame {len(video)} and after"
    assert "cut off" in problem.reason or "damaged" in problem.reason


def test_a_damaged_frame_ends_a_video(tmp_path):
    frames = pictures(30)
    file = encode(tmp_path / "a.mov", frames, **PNG)
    data = bytearray(file.read_bytes())
    starts = [n for n in range(len(data)) if data.startswith(b"\x89PNG", n)]
    data[starts[20] : starts[20] + 60] = bytes(60)
    file.write_bytes(data)
    video = Video(file)
    assert len(video) == 20
    assert np.array_equal(content(video), frames[:20])
    assert "a.mov, frame 20 and after: damaged" in str(video.problems[0])


def sound(file):
    with av.open(str(file), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def cut_mp4(file):
    encode(file, pictures())
    file.write_bytes(file.read_bytes()[:-500])


def empty_video(file):
    """A header, and the first frame cut off."""
    encode(file, pictures(1), **LOSSLESS)
    file.write_bytes(file.read_bytes()[:-20_000])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.mp4", lambda f: None, "a.mp4: no such video"),
        ("a.mp4", lambda f: f.write_bytes(b""), "a.mp4: not a video that can be read"),
        ("a.mp4", lambda f: f.write_text("hello"), "a.mp4: not a video that can be read .*ffmpeg -i FILE NEW.mp4"),
        ("a.mp4", cut_mp4, "a.mp4: not a video that can be read .*cut off"),
        ("a.mkv", sound, "a.mkv: no video in this file"),
        ("a.mkv", empty_video, "a.mkv: a video without frames"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(DatasetError, match=words):
        Video(tmp_path / name)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(video_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"a\.mp4: videos need PyAV: pip install 'lightning-det\[video\]'"):
        Video(tmp_path / "a.mp4")


# The command


@pytest.fixture(scope="module")
def trained(shapes_root, tmp_path_factory):
    def train(folder):
        network = ["detector=ssd", "backbone=ssd_tiny", "backbone.norm=batch", "detector.head_norm=batch"]
        given = [f"dataset.root={shapes_root}", *SMALL, "debug=limit", f"hydra.run.dir={folder}"]
        assert run("train", *network, *given).code == 0

    return made_once(tmp_path_factory, "trained_for_videos", train)[0]


@pytest.mark.slow
@pytest.mark.parametrize("test", ["[single_scale]", "[multi_scale,flip,soft_nms,voting]", "[tiles]"])
def test_a_video_is_predicted_as_its_frames_are(trained, tmp_path, test):
    frames = pictures(4)
    file = encode(tmp_path / "clip.mkv", frames, **LOSSLESS)
    (tmp_path / "frames").mkdir()
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(tmp_path / f"frames/{number}.png")
    given = [f"checkpoint={trained}", f"test={test}", "data.test_batch_size=3"]
    if test == "[tiles]":
        given += ["views.test.windows.size=64", "data.num_workers=1"]
    for name, source in (("video", file), ("images", tmp_path / "frames")):
        outcome = run("predict", *given, f"source={source}", f"hydra.run.dir={tmp_path}/{name}")
        assert outcome.code == 0, outcome.errors
    found, expected = (read(tmp_path / name / "predictions.json") for name in ("video", "images"))
    (video,) = found["videos"]
    frames = video.pop("frames")
    assert video == {"file": "clip.mkv", "width": 128, "height": 96, "frames_per_second": 10.0}
    assert [f["frame"] for f in frames] == list(range(4))
    assert [f["time"] for f in frames] == pytest.approx(np.arange(4) / 10)
    assert sum(len(f["detections"]) for f in frames) > 20
    assert [f["detections"] for f in frames] == [i["detections"] for i in expected["images"]]
    assert len(Video(tmp_path / "video/pictures/clip.mp4")) == 4
    assert found["images"] == []
    assert not list((tmp_path / "video").rglob("*.png"))


@pytest.mark.slow
def test_a_truncated_video_is_predicted_and_said(trained, tmp_path):
    file = encode(tmp_path / "clip.mkv", pictures(30), **LOSSLESS)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    outcome = run("predict", f"checkpoint={trained}", f"source={file}", f"hydra.run.dir={tmp_path}/out")
    assert outcome.code == 0, outcome.errors
    assert "clip.mkv, frame" in outcome.output
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert 0 < len(found["videos"][0]["frames"]) < 15
    assert found["problems"][0]["action"] == "frames left out"


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile other/a.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\nother/a.ts\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>other/a.mp4</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_list_of_other_files_is_no_video(tmp_path, kind):
    (tmp_path / "other").mkdir()
    for name in ("a.mp4", "a.ts"):
        assert len(Video(encode(tmp_path / "other" / name, pictures(3)))) == 3
    (tmp_path / "x.mp4").write_text(PLAYLISTS[kind])
    with pytest.raises(DatasetError, match=r"x\.mp4: not a video that can be read \("):
        Video(tmp_path / "x.mp4")


def test_a_picture_is_no_video(tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "x.mp4", format="PNG")
    with pytest.raises(DatasetError, match=r"not a video that can be read \(none of the kinds mov, mp4, "):
        Video(tmp_path / "x.mp4")


def test_names_like_addresses_are_names(tmp_path, monkeypatch):
    encode(tmp_path / "a.mp4", pictures(3))
    (tmp_path / "a.mp4").rename(tmp_path / "http:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(Video(Path("http:a.mp4"))) == 3
