"""Streamed data sets: which pictures a stream gives, and that a resumed run goes on with the same ones."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, ConfigFile
from distillkit_data.huggingface import HuggingFace
from distillkit_data.noised_data import NoisedData
from distillkit_data.windows import Windows
from helpers.digits import MODEL, distil
from helpers.forked_runs import ForkedRun
from helpers.pictures import images

from distillkit import distributed
from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import Stage

NUMBER = 12
CAPTIONS = ["a dog", "a cat", "a dog", "a bird"] * 3


# --- windows ---------------------------------------------------------------------------------------------------------


class Counted:
    """Numbers 100, 101, …, and how many of them were read."""

    def __init__(self, count: int) -> None:
        self.count, self.read, self.begin = count, 0, 0

    def __iter__(self) -> Iterator[int]:
        for i in range(self.begin, self.count):
            self.read += 1
            self.at = i + 1
            yield 100 + i

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: Any) -> None:
        self.begin = state["at"] if state else 0


def windows_of(stream: Counted, size: int = 4) -> Windows:
    return Windows(stream, size, "numbers")


def picked(windows: Windows, first: int, count: int, seed: int = 0) -> list[int]:
    rows = windows.pick(seed, first, count)
    assert all(row == 100 + number for number, row in rows)
    return [number for number, _ in rows]


def test_windows_follow_the_stream_and_mix_what_is_in_them() -> None:
    stream = Counted(10)
    found = picked(windows_of(stream), 0, 40)
    for i in range(10):
        assert sorted(found[4 * i : 4 * i + 4]) == sorted((4 * i + j) % 10 for j in range(4))
    assert Counter(found) == dict.fromkeys(range(10), 4)
    assert stream.read == 40
    assert found[:20] != found[20:]
    assert found != picked(windows_of(Counted(10)), 0, 40, seed=1)


def test_a_sample_depends_on_its_number_alone() -> None:
    whole = picked(windows_of(Counted(10)), 0, 60)
    windows = windows_of(Counted(10))
    # In order, in pieces that end within windows; back, as after a rollback; and far ahead, as when a run is resumed.
    for first, count in ((0, 3), (3, 3), (6, 30), (5, 2), (0, 1), (57, 3), (33, 3)):
        assert picked(windows, first, count) == whole[first : first + count]
    stream = Counted(10)
    assert picked(windows_of(stream), 56, 3) == whole[56:59]
    # One pass tells how long the stream is; the others before the window are not read.
    assert stream.read == 10 + 10


@pytest.mark.parametrize("sample", [1, 6, 8, 11, 21, 45])
def test_a_place_saves_what_lies_before_it(sample: int) -> None:
    """Rows of the window and of those that are skipped for it, at most."""
    whole = picked(windows_of(Counted(10)), 0, 60)
    before = windows_of(Counted(10))
    for first in range(0, sample, 3):
        picked(before, first, min(3, sample - first))
    state, stream = before.state_dict(), Counted(10)
    # A state may be of the beginning of an update that has drawn more, and several runs may go on from it.
    picked(before, sample, 4)
    for made in (before.state_dict(), state):
        after = windows_of(stream)
        after.load_state_dict(made)
        stream.read = 0
        assert picked(after, sample, 60 - sample) == whole[sample:]
        assert stream.read <= 60 - sample // 4 * 4 + 4
    other = windows_of(Counted(10), 5)
    other.load_state_dict(state)
    assert picked(other, 0, 30) == picked(windows_of(Counted(10), 5), 0, 30)


def test_a_stream_that_fails_is_read_again() -> None:
    class Failing(Counted):
        def __iter__(self) -> Iterator[int]:
            for i in super().__iter__():
                if self.read == 6:
                    raise OSError("no network")
                yield i

    windows, whole = windows_of(Failing(10)), picked(windows_of(Counted(10)), 0, 8)
    assert picked(windows, 0, 4) == whole[:4]
    with pytest.raises(OSError, match="no network"):
        picked(windows, 4, 4)
    assert picked(windows, 4, 4) == whole[4:]


# --- data sets -------------------------------------------------------------------------------------------------------


def write(library: Any, folder: Path, damaged: int | None = None, **columns: Any) -> Path:
    """Pictures of 8×8 in folder/pictures, and as six Parquet files in folder/files."""
    torch.manual_seed(0)
    for i in range(NUMBER):
        file = folder / "pictures" / "ab"[i // 6] / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        library.Image().decode_example(
            library.Image().encode_example(torch.randint(256, (8, 8), dtype=torch.uint8).numpy())
        ).save(file)
    stored = [{"bytes": file.read_bytes(), "path": None} for file in sorted((folder / "pictures").rglob("*.png"))]
    if damaged is not None:
        stored[damaged]["bytes"] = b"no picture"
    features = library.Features({"image": library.Image(), **{key: kind for key, (kind, _) in columns.items()}})
    values = {"image": stored, **{key: values for key, (_, values) in columns.items()}}
    (folder / "files").mkdir()
    for i in range(6):
        part = {key: column[2 * i : 2 * i + 2] for key, column in values.items()}
        library.Dataset.from_dict(part, features).to_parquet(folder / f"files/train-{i}.parquet")
    return folder / "files"


def load(path: object, streaming: bool = True, **options: Any) -> HuggingFace:
    given = {"path": str(path), "size": 8, "channels": 1, "streaming": streaming, **options}
    data = HuggingFace(HuggingFace.Options.model_validate(given))
    data.setup()
    return data


def test_every_picture_of_a_pass_with_its_class(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = library.ClassLabel(names=["no", "yes", "maybe"])
    columns: dict[str, Any] = {
        "class": (names, [0, 1] * 6),
        "text": (library.Value("string"), CAPTIONS),
        "number": (library.Value("int64"), [*range(11), 3]),
    }
    path = write(library, tmp_path, **columns)
    expected = images(tmp_path / "pictures", size=8, channels=1).batch(torch.arange(NUMBER))[0]
    read, original = [], library.load_dataset

    def load_dataset(*given: Any, **options: Any) -> Any:
        read.append(options.get("columns"))
        return original(*given, **options)

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    for column, reads in (("class", []), ("text", [["text"]]), ("number", [["number"]]), (None, [])):
        known, data = load(path, streaming=False, label=column), load(path, label=column, buffer=5)
        assert (data.classes, data.class_names) == (known.classes, known.class_names)
        assert (data.streamed, known.streamed) == (True, False)
        # Only the column of classes is read before the run, and only where its classes have no names.
        assert read == [None, None, *reads]
        read.clear()
        data.seek(3, 0)
        found, labels = data.batch(data.draw(NUMBER, torch.Generator()))
        places = [next(i for i in range(NUMBER) if torch.equal(picture, expected[i])) for picture in found]
        assert sorted(places[:10]) == list(range(10))
        # The third window holds the last two pictures and the first three.
        assert set(places[10:]) <= {10, 11, 0, 1, 2}
        _, as_known = known.batch(torch.tensor(places))
        assert (labels is None) == (as_known is None)
        assert labels is None or labels.tolist() == as_known.tolist()  # type: ignore[union-attr]
        data.seek(3, 3)
        assert torch.equal(data.batch(data.draw(2, torch.Generator()))[0], found[3:5])
        # For sources that draw indices themselves, the window is what there is.
        data.seek(3, 5)
        assert len(data) == 5
        assert torch.equal(data.batch(torch.arange(5))[0], expected[5:10])


@pytest.mark.parametrize("kind", ["files", "pictures"])
def test_a_place_in_files(library: Any, tmp_path: Path, kind: str) -> None:
    write(library, tmp_path)
    whole, data, later = (load(tmp_path / kind, buffer=3) for _ in range(3))
    whole.seek(0, 0)
    expected = whole.batch(whole.draw(30, torch.Generator()))[0]
    for sample in range(0, 12, 2):
        data.seek(0, sample)
        data.draw(2, torch.Generator())
    later.load_state_dict(data.state_dict())
    first = tmp_path / "files/train-0.parquet"
    first.rename(tmp_path / "away")  # the window of sample 10 begins in the fifth file
    later.seek(0, 10)
    assert torch.equal(later.batch(later.draw(2, torch.Generator()))[0], expected[10:12])
    (tmp_path / "away").rename(first)
    later.seek(0, 12)
    assert torch.equal(later.batch(later.draw(18, torch.Generator()))[0], expected[12:])


def test_a_folder_of_pictures(library: Any, tmp_path: Path) -> None:
    write(library, tmp_path)
    data = load(tmp_path / "pictures", label="label", buffer=NUMBER)
    assert (data.classes, data.class_names) == (2, ["a", "b"])
    found, labels = data.batch(data.draw(NUMBER, torch.Generator()))
    expected = images(tmp_path / "pictures", size=8, channels=1).batch(torch.arange(NUMBER))[0]
    assert labels is not None
    for picture, label in zip(found, labels.tolist(), strict=True):
        assert any(torch.equal(picture, one) for one in expected[6 * label : 6 * label + 6])


def test_processes_share_the_draw_of_one(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(library, tmp_path)

    class Model:
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def condition(self, *_: Any) -> None:
            return None

    def drawn(batch: int, sample: int) -> torch.Tensor:
        source, data = NoisedData(NoisedData.Options.model_validate({"batch": batch})), load(path, buffer=5)
        source.setup(Model(), data)  # type: ignore[arg-type]
        times = torch.zeros(2, source.global_batch)
        monkeypatch.setattr(source, "_draw_times", lambda level, generator: (times, level))
        source._stage = Stage(4, 1)
        source._path = type("Path", (), {"noised": staticmethod(lambda data, noise, times: data)})  # type: ignore[assignment]
        data.seek(0, sample)
        return source.draw(torch.Generator().manual_seed(1)).z

    for sample in (0, 3, 40):
        whole = drawn(4, sample)
        monkeypatch.setattr(distributed, "active", True)
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed, "on_main_process", lambda do: do())
        parts = []
        for rank in range(2):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(drawn(2, sample))
        monkeypatch.setattr(distributed, "active", False)
        monkeypatch.setattr(distributed, "world_size", lambda: 1)
        assert torch.equal(torch.cat(parts), whole)
        assert len({picture.numpy().tobytes() for picture in whole}) == 4


def test_mistakes(library: Any, tmp_path: Path, config: ConfigFile) -> None:
    columns = {
        "part": (library.Value("float64"), [0.5] * NUMBER),
        "gap": (library.Value("string"), [*CAPTIONS[:-1], None]),
        "class": (library.ClassLabel(names=["no", "yes"]), [0] * 8 + [None] + [1] * 3),
    }
    path = write(library, tmp_path, damaged=9, **columns)
    mistakes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"image": "picture"}, rf"^data\.image: '{path}' has no column 'picture'; it has image, part, gap, class$"),
        ({"label": "part"}, r"^data\.label: the column 'part' must hold whole numbers of 0 or more, or texts"),
        ({"label": "gap"}, r"^data\.label: the column 'gap' must hold"),
        ({"split": "test"}, rf"^data\.path: '{path}' cannot be loaded \("),
    )
    for options, told in mistakes:
        with pytest.raises(DistillkitError, match=told):
            load(path, **options)
    data = load(path, label="class", buffer=4)
    data.seek(0, 8)
    labels = data.batch(torch.tensor([2, 3]))[1]
    assert labels is not None
    assert labels.tolist() == [1, 1]
    faults = (r"^data\.label: the column 'class' must hold", rf"^data\.path: picture 9 of '{path}' cannot be read \(")
    for index, told in enumerate(faults):
        with pytest.raises(DistillkitError, match=told):
            data.batch(torch.tensor([index]))
    (path / "train-4.parquet").write_bytes(b"no file of Parquet")
    data = load(path, buffer=4)
    with pytest.raises(DistillkitError, match=rf"^data\.path: '{path}' cannot be read \("):
        data.seek(0, 8)
    library.Dataset.from_dict({"image": [str(tmp_path)]}).save_to_disk(tmp_path / "saved")
    for given, told in (
        ("buffer = 0", "data.buffer: must be at least 1 (got 0)"),
        (
            f'path = "{tmp_path}/saved"',
            f"data.streaming: must be false: '{tmp_path}/saved' was written by save_to_disk, and is read from there as "
            "it is",
        ),
        (
            '[features]\ntype = "pixels"\n[[metric]]\ntype = "fid"',
            "evaluation.reference: is \"auto\", and 'fid' compares with all images of [data], which are streamed; use "
            "features with a reference of their own, or data that are not streamed",
        ),
    ):
        text = 'preset = "pd"\n[run]\nupdates = 64\n[data]\ntype = "huggingface"\nsize = 8\nstreaming = true\n'
        text += given if "path" in given else f'path = "mine"\n{given}'
        with pytest.raises(ConfigError) as caught:
            read_config(config.write(text + "\n"))
        assert [str(mistake) for mistake in caught.value.mistakes] == [told]


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_draws_the_same(library: Any, tmp_path: Path, accumulate: int) -> None:
    path = write(library, tmp_path, label=(library.Value("int64"), [*range(NUMBER - 2), 0, 1]))
    tables = f'{MODEL}[data]\ntype = "huggingface"\npath = "{path}"\nlabel = "label"\nsize = 8\nchannels = 1\n'
    tables += 'streaming = true\nbuffer = 5\n[evaluation]\nsteps = [2]\ngrid = 2\n[tracker]\ntype = "none"\n'
    options = (
        *("run.updates=6", "run.checkpoint_every=2", "run.keep=9", "source.batch=3", "schedule.start=8"),
        f"optimizer.accumulate={accumulate}",
    )
    whole = distil(tmp_path / "whole", "pd", *options, tables=tables)
    shutil.copytree(whole.folder, tmp_path / "part/run")
    shutil.rmtree(tmp_path / "part/run/pipeline")
    for update in (4, 6):
        shutil.rmtree(tmp_path / f"part/run/checkpoints/update-{update:06d}")
    resumed = distil(tmp_path / "part", "pd", *options, tables=tables, resume=True)
    assert resumed.losses == whole.losses
    assert all(torch.equal(weight, whole.weights()[key]) for key, weight in resumed.weights().items())


def test_a_bad_picture_in_a_stream_of_two_processes(library: Any, tmp_path: Path) -> None:
    """It stops both after a checkpoint. With a good one in its place, the run is as if nothing had been."""
    runs = []
    for name, damaged in (("good", None), ("bad", 9)):
        (tmp_path / name).mkdir()
        path = write(library, tmp_path / name, damaged)
        text = f'preset = "training"\n[run]\nupdates = 6\n[evaluation]\nsteps = [2]\ngrid = 1\n{SMALL}\n[data]\n'
        text += f'type = "huggingface"\npath = "{path}"\nsize = 8\nchannels = 1\nstreaming = true\nbuffer = 4\n'
        (tmp_path / name / "mine.toml").write_text(text, encoding="utf-8")
        runs.append(replace(ForkedRun(tmp_path / name, ("source.batch=1", "run.seed=2")), ranks=2))
    good, bad = runs
    assert bad.go() == 2, bad.errors
    said = "".join((bad.top / f"errors-{rank}").read_text(encoding="utf-8") for rank in range(2))
    told = rf"data\.path: picture 9 of '{bad.top}/files' cannot be read \(.+\); there is a checkpoint of update (\d): "
    told += r"go on with --resume\n"
    found = re.search(told, said)
    assert found is not None, said
    assert said.count("data.path") == 1
    # Samples 8 to 11 are the third window's.
    assert found[1] in "45"
    shutil.rmtree(bad.top / "files")
    shutil.copytree(good.top / "files", bad.top / "files")
    assert bad.go() == good.go() == 0, bad.errors
    weights = "pipeline/unet/diffusion_pytorch_model.safetensors"
    assert (bad.run / weights).read_bytes() == (good.run / weights).read_bytes()
