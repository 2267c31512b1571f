"""Folders of pictures as people have them."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import socket
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from distillkit_data.images import Images
from helpers.forked_runs import ForkedRun
from helpers.pictures import images, picture
from PIL import Image, ImageOps, PngImagePlugin

from distillkit.errors import DistillkitError, Mistake


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    picture(tmp_path / "dog/b.png", (255, 0, 0))
    picture(tmp_path / "cat/deep/a.PNG", (0, 255, 0))
    picture(tmp_path / "dog/a.bmp", (0, 0, 255))
    (tmp_path / "dog/notes.txt").write_text("no picture", encoding="utf-8")
    data = images(tmp_path)
    found, labels = data.batch(torch.arange(len(data)))
    assert len(data) == 3
    assert labels is not None
    assert labels.tolist() == [0, 1, 1]
    assert data.classes == 2
    assert found.shape == (3, 3, 4, 4)
    assert found[:, :, 0, 0].tolist() == [[-1, 1, -1], [-1, -1, 1], [1, -1, -1]]


def test_without_sub_folders_there_are_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (255, 255, 255))
    picture(tmp_path / "more/b.png", (0, 0, 0))
    data = images(tmp_path, channels=1)
    found, labels = data.batch(torch.tensor([0, 1]))
    assert (labels, data.classes) == (None, None)
    assert found[:, 0, 0, 0].tolist() == [1, -1]
    assert found.shape == (2, 1, 4, 4)


def test_pictures_are_cut_to_a_centred_square(tmp_path: Path) -> None:
    """White sides are cut off a wide black picture."""
    pixels = np.full((4, 12), 255, np.uint8)
    pixels[:, 4:8] = 0
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found, _ = images(tmp_path, size=4, channels=1).batch(torch.tensor([0]))
    assert (found == -1).all()
    smaller, _ = images(tmp_path, size=2, channels=1).batch(torch.tensor([0]))
    assert smaller.shape == (1, 1, 2, 2)


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError) as caught:
        images(tmp_path)
    assert str(caught.value) == f"data.folder: no pictures (.bmp, .jpeg, .jpg, .png, .webp) in {tmp_path}"
    missing = Images(Images.Options(folder=tmp_path / "no", size=4))
    assert list(missing.check()) == [Mistake("folder", f"there is no folder {tmp_path}/no")]
    (tmp_path / "a.txt").touch()
    file = Images(Images.Options(folder=tmp_path / "a.txt", size=4))
    assert list(file.check()) == [
        Mistake("folder", f"{tmp_path}/a.txt is no folder; give the folder that the pictures are in")
    ]


def test_pictures_of_other_kinds_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.tiff", "more/b.GIF"):
        picture(tmp_path / name, (0, 0, 0))
    left = f"{tmp_path}, 2 pictures of other kinds (.gif, .tiff) are not read and left out"
    with pytest.raises(
        DistillkitError, match=r"; 2 pictures of other kinds \(\.gif, \.tiff\) are not read: convert them"
    ):
        images(tmp_path)
    picture(tmp_path / "c.png", (0, 0, 0))
    assert len(images(tmp_path)) == 1
    assert capsys.readouterr().err == f"data.folder: in {left}\n"


def test_a_picture_beside_the_classes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes the labels away."""
    for name in ("cat/a.png", "dog/a.png", "cover.png"):
        picture(tmp_path / name, (0, 0, 0))
    assert images(tmp_path).classes is None
    assert capsys.readouterr().err == (
        f"data.folder: there are no labels, because 1 picture in {tmp_path}, such as cover.png, lies beside its folders"
        "; take such pictures away for a class from each folder\n"
    )


def test_bad_files_in_the_place_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link that leads to itself, a Git LFS pointer, and a name that a terminal would obey."""
    picture(tmp_path / "good.png", (0, 0, 0))
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", encoding="utf-8")
    (tmp_path / "red\n\x1b[31m.png").write_bytes(b"no picture")
    assert len(images(tmp_path, bad="skip")) == 1
    assert capsys.readouterr().err == (
        f"data.folder: 3 of 4 pictures in {tmp_path} are left out: lfs.png (it is a Git LFS pointer in the place of "
        "the file: run git lfs pull), red\\n\\x1b[31m.png (it is no picture that Pillow knows), self.png (Too many "
        "levels of symbolic links)\n"
    )


# --- what is a class, and what a picture -----------------------------------------------------------------------------


def test_what_others_left_in_the_folder_is_no_class(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/a.png", "__MACOSX/cat/._a.png", "__MACOSX/a.png", ".thumbs/a.png", "@eaDir/a.png"):
        picture(tmp_path / name, (255, 0, 0))
    for name in (".DS_Store", "Thumbs.db", "._cat.png", "cat/._a.png", "cat/.DS_Store", "dog/desktop.ini"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "empty/inside").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/read.txt").touch()
    data = images(tmp_path)
    assert (len(data), data.classes, data.class_names) == (2, 2, ["cat", "dog"])


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png", (0, 0, 0))
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "terminal.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        assert len(images(tmp_path)) == 1


def test_links_are_followed_and_not_round_in_circles(tmp_path: Path) -> None:
    picture(tmp_path / "there/a.png", (0, 0, 0))
    folder = tmp_path / "pictures"
    for name in ("cat", "dog"):
        picture(folder / f"{name}/a.png", (0, 0, 0))
        (folder / f"{name}/up").symlink_to("..")
        (folder / f"{name}/other").symlink_to(f"../{'dog' if name == 'cat' else 'cat'}")
    (folder / "eel").symlink_to("../there")
    data = images(folder)
    assert data.class_names == ["cat", "dog", "eel"]
    _, labels = data.batch(torch.arange(len(data)))
    assert labels is not None
    assert (labels == 2).sum() == 1


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is root may read all: it is asked for what is gone by then."""
    picture(tmp_path / "a.png", (0, 0, 0))
    real = os.scandir

    def scandir(folder: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DistillkitError) as caught:
        images(tmp_path)
    monkeypatch.setattr(os, "scandir", real)
    assert str(caught.value) == f"data.folder: {tmp_path}: cannot be read (Permission denied)"


# --- bad pictures ----------------------------------------------------------------------------------------------------


def encoded(kind: str, size: int = 32, **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP"}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
def test_a_picture_cut_short_is_found_before_the_run(tmp_path: Path, suffix: str, share: float) -> None:
    whole = encoded(KINDS[suffix])
    (tmp_path / f"whole.{suffix}").write_bytes(whole)
    assert len(images(tmp_path)) == 1
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        DistillkitError, match=r"^data.folder: 1 of 2 pictures in .* cannot be used: cut\.\w+ \(.+\); take"
    ):
        images(tmp_path)


@pytest.mark.parametrize("suffix", KINDS)
def test_what_stands_behind_a_picture_does_not_matter(tmp_path: Path, suffix: str) -> None:
    """Cameras add films, and disks zeros."""
    (tmp_path / f"a.{suffix}").write_bytes(encoded(KINDS[suffix]) + bytes(5000))
    found, _ = images(tmp_path, size=32).batch(torch.tensor([0]))
    assert found.std() > 0.3


def test_bad_pictures_stop_a_run_or_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class keeps its number, also where none of its pictures is good."""
    for name in ("cat", "dog"):
        picture(tmp_path / name / "good.png", (255, 255, 255))
    (tmp_path / "bird").mkdir()
    for i in range(5):
        (tmp_path / f"bird/{i}.jpg").write_bytes(b"no picture")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "cat/float.tiff")
    (tmp_path / "cat/float.tiff").rename(tmp_path / "cat/float.png")
    what = (
        f"6 of 8 pictures in {tmp_path} {{}}: bird/0.jpg (it is no picture that Pillow knows), bird/1.jpg (it is no "
        "picture that Pillow knows), bird/2.jpg (it is no picture that Pillow knows) and 3 more"
    )
    with pytest.raises(DistillkitError) as caught:
        images(tmp_path)
    assert str(caught.value) == (
        f'data.folder: {what.format("cannot be used")}; take them away, or set data.on_bad_picture = "skip"'
    )
    data = images(tmp_path, bad="skip")
    assert capsys.readouterr().err == f"data.folder: {what.format('are left out')}\n"
    _, labels = data.batch(torch.tensor([0, 1]))
    assert labels is not None
    assert (labels.tolist(), data.class_names) == ([1, 2], ["bird", "cat", "dog"])


def test_no_good_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DistillkitError) as caught:
        images(tmp_path, bad="skip")
    assert str(caught.value) == (
        f"data.folder: no pictures (none can be used: a.png (it is no picture that Pillow knows)) in {tmp_path}"
    )


def test_more_pixels_than_pillow_s_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above the half of it, and these are taken."""
    picture(tmp_path / "a.png", (0, 0, 0), size=(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    images(tmp_path).batch(torch.tensor([0]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 449)
    with pytest.raises(DistillkitError, match=r"a\.png \(it has more than 898 pixels, Pillow's limit\); take"):
        images(tmp_path)


def damaged(folder: Path) -> None:
    """Three classes of two; the first picture of the second has good ends, and no middle."""
    for name in ("cat", "dog", "eel"):
        for i in range(2):
            picture(folder / f"{name}/{i}.png", (255, 0, 0))
    whole = bytearray(encoded("PNG"))
    whole[100:-100] = bytes(len(whole) - 200)
    (folder / "dog/0.png").write_bytes(whole)


def test_a_picture_that_is_bad_in_its_middle(tmp_path: Path) -> None:
    damaged(tmp_path)
    data = images(tmp_path)
    data.batch(torch.tensor([0, 1, 3, 4, 5]))
    with pytest.raises(DistillkitError, match=rf"^{tmp_path}/dog/0\.png: cannot be read as a picture \(.+\); take it"):
        data.batch(torch.tensor([2]))
    found, labels = images(tmp_path, bad="skip").batch(torch.arange(6))
    assert labels is not None
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found[2].equal(found[3])
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DistillkitError, match=r"cannot be read as a picture"):
        data.batch(torch.tensor([2]))


@pytest.mark.parametrize("suffix", KINDS)
def test_damaged_anywhere(tmp_path: Path, suffix: str) -> None:
    """Bytes are others: a picture, or one sentence."""
    file, chance = tmp_path / f"a.{suffix}", random.Random(0)
    options = {} if suffix == "bmp" else {"exif": exif(6)}
    whole = encoded(KINDS[suffix], 8, **options)
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(4):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content)
        try:
            images(tmp_path).batch(torch.tensor([0]))
        except DistillkitError as error:
            assert re.search(r"a\.\w+(: cannot be read as a picture)? \(.+\); take", str(error))  # noqa: PT017


# --- a run -----------------------------------------------------------------------------------------------------------


def run_on(folder: Path) -> ForkedRun:
    """A training on a folder's pictures, of two processes; a damaged one is first read after some updates."""
    text = f'preset = "training"\n[run]\nupdates = 6\n[evaluation]\nsteps = [2]\ngrid = 1\n{SMALL}\n'
    text += f'[data]\ntype = "images"\nfolder = "{folder}"\nsize = 8\nchannels = 1\n'
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "mine.toml").write_text(text, encoding="utf-8")
    return ForkedRun(folder.parent, ("source.batch=1", "run.seed=2"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_bad_picture_stops_a_run_after_a_checkpoint(tmp_path: Path, ranks: int) -> None:
    """In all processes, of which one has read it. With a good one in its place, the run is as if nothing had been."""
    good, bad = run_on(tmp_path / "good/pictures"), run_on(tmp_path / "bad/pictures")
    for made in (good, bad):
        for i in range(12):
            picture(made.top / f"pictures/{i:02d}.png", (20 * i, 0, 0), size=(32, 32))
    damaged = bytearray(encoded("PNG"))
    damaged[100:-100] = bytes(len(damaged) - 200)
    file = bad.top / "pictures/04.png"
    file.write_bytes(damaged)
    good, bad = replace(good, ranks=ranks), replace(bad, ranks=ranks)
    assert bad.go() == 2, bad.errors
    said = "".join((bad.top / f"errors-{rank}").read_text(encoding="utf-8") for rank in range(ranks))
    # torch may log on the same stream that the other process has gone.
    found = re.search(
        rf"{file}: cannot be read as a picture \(.+\); take it away, or set data\.on_bad_picture = \"skip\"; "
        r"there is a checkpoint of update (\d): go on with --resume\n",
        said,
    )
    assert found is not None, said
    assert said.count("cannot be read") == 1
    assert [path.name for path in (bad.run / "checkpoints").iterdir()] == [f"update-00000{found[1]}"]
    assert int(found[1]) > 0
    shutil.copy(good.top / "pictures/04.png", file)
    assert bad.go() == good.go() == 0, bad.errors
    weights = "pipeline/unet/diffusion_pytorch_model.safetensors"
    assert (bad.run / weights).read_bytes() == (good.run / weights).read_bytes()


# --- how pictures are read -------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
RGB, GREY = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8), RNG.integers(0, 256, (8, 8), dtype=np.uint8)


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def read(file: Path, channels: int = 3) -> np.ndarray:
    """The picture's 8-bit numbers as `Images` has them, [8, 8, channels]."""
    found, _ = images(file.parent, size=8, channels=channels).batch(torch.tensor([0]))
    return ((found[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif(orientation))
    turned: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    expected = turned[orientation](RGB)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), expected)


def test_exif_data_that_are_damaged(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\xff" + bytes(9))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), RGB)


def test_cmyk(tmp_path: Path) -> None:
    inks = Image.fromarray(RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8), "CMYK")
    inks.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK"
        stored = np.asarray(image).astype(float)
        by_pillow = np.asarray(image.convert("RGB"))
    found = read(tmp_path / "a.jpg")
    np.testing.assert_array_equal(found, by_pillow)
    by_hand = (255 - stored[..., :3]) * (255 - stored[..., 3:]) / 255
    np.testing.assert_allclose(found, by_hand, atol=1)


def test_palettes(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "a.png")
    assert image.mode == "P"
    colours = np.array(image.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), colours[np.asarray(image)])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128] + [255] * 14))  # for each colour
    opacity = np.array([0, 128] + [255] * 14)[np.asarray(image)][..., None] / 255
    expected = colours[np.asarray(image)] * opacity + 255 * (1 - opacity)
    np.testing.assert_allclose(read(tmp_path / "a.png"), expected, atol=1)


def test_16_bits(tmp_path: Path) -> None:
    grey = (GREY.astype(np.uint16) << 8) + 77
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", 1)[..., 0], GREY)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.stack([GREY] * 3, -1))


def test_16_bits_of_each_colour(tmp_path: Path) -> None:
    """Pillow writes no such files."""
    rows = b"".join(b"\0" + row.tobytes() for row in ((RGB.astype(">u2") << 8) + 77).astype(">u2"))
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(file, b"IHDR", (8).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0]))
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(rows))
    PngImagePlugin.putchunk(file, b"IEND", b"")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    np.testing.assert_array_equal(read(tmp_path / "a.png"), RGB)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits(tmp_path: Path, dtype: type) -> None:
    """Refused before the run, and when it is read, as the file may have changed."""
    picture(tmp_path / "a.png", (0, 0, 0))
    data = images(tmp_path)
    Image.fromarray(GREY.astype(dtype) * 100).save(tmp_path / "a.png", format="TIFF")
    told = "(it has 32 bits a pixel, and nothing says which range of them is used); take"
    with pytest.raises(DistillkitError, match=re.escape(f"cannot be used: a.png {told}")):
        images(tmp_path)
    with pytest.raises(DistillkitError, match=re.escape(f"a.png: cannot be read as a picture {told}")):
        data.batch(torch.tensor([0]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [False, True])
def test_what_is_transparent_is_laid_on_white(tmp_path: Path, channels: int, grey: bool) -> None:
    colours = np.stack([GREY] * 3, -1) if grey else RGB
    opacity = RNG.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    stored = np.concatenate([GREY[..., None] if grey else RGB, opacity], -1)
    Image.fromarray(stored).save(tmp_path / "a.png")
    laid = colours * (opacity / 255) + 255 * (1 - opacity / 255)
    weights = np.array([[0.299, 0.587, 0.114]]).T  # ITU-R 601, as Pillow has them
    np.testing.assert_allclose(read(tmp_path / "a.png", channels), laid if channels == 3 else laid @ weights, atol=1.5)


def test_the_first_picture_of_an_animation(tmp_path: Path) -> None:
    second = Image.fromarray(255 - RGB)
    Image.fromarray(RGB).save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(read(tmp_path / "a.webp"), RGB)
