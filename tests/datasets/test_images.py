"""Pictures as sequences: readings of maps, pictures from folders and archives, shifts in batches, prediction."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from pipeline.checkpoint import load_model_file
from pipeline.cli import main
from pipeline.config import DataConfig, DecodeConfig, Experiment, ModelConfig, SamplingConfig, TrainingConfig
from pipeline.config import TransformConfig as Transform
from pipeline.datasets.annotations import Annotations
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.images import PictureClips, PicturesOfCifar10, open_folder_or_zip
from pipeline.datasets.settled import make_splits
from pipeline.datasets.videos import ClipBatch, fixed_clips
from pipeline.decode import VideoOpener, open_video
from pipeline.errors import DecodeError, UserError
from pipeline.evaluation import evaluate_model
from pipeline.explanation.memory import remember
from pipeline.inference.folding import fold_batch_norm
from pipeline.models.backbones import build_backbone
from pipeline.models.recognizer import Recognizer
from pipeline.models.scan_orders import SCAN_ORDERS
from pipeline.models.temporal.stack import MAP_HEADS, TEMPORAL_HEADS, build_temporal
from pipeline.training.fit import train
from pipeline.transforms.augmentation import blank_squares
from pipeline.transforms.crops import shift_and_flip
from pipeline.transforms.frames import fit_frames
from tests.small import small_model


def write_pictures(root: Path, count: int = 8) -> Path:
    """Pictures of 20x24 whose upper half is bright in one class and whose lower half is in the other, as PNG."""
    rng = np.random.default_rng(0)
    for part, number in (("train", count), ("test", 3)):
        for label, bright in (("above", slice(0, 10)), ("below", slice(10, 20))):
            (root / part / label).mkdir(parents=True)
            for index in range(number):
                picture = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
                picture[bright] += 150
                cv2.imwrite(str(root / part / label / f"{index}.png"), picture)
    return root


def zip_of(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def images_in(root: Path) -> Annotations:
    return read_annotations(DataConfig(format="images", root=str(root)))


def experiment_on(root: Path, output_dir: Path, **model: object) -> Experiment:
    settings: dict[str, object] = {"backbone": "pixels_4x4", "scan": "rows", "heads": ("gru",)} | model
    return Experiment(
        output_dir=str(output_dir),
        data=DataConfig(format="images", root=str(root), batch_size=4, num_workers=0, val_fraction=0.25),
        sampling=SamplingConfig(sample_fps=1, num_frames=1, num_eval_clips=1),
        transform=Transform(
            fit="crop",
            fit_size_px=16,
            input_size_px=16,
            min_crop_area=1.0,
            crop_padding_px=1,
            cutout_px=4,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
        ),
        model=ModelConfig(weights="none", hidden_channels=16, dropout=0.0, **settings),  # type: ignore[arg-type]
        training=TrainingConfig(
            epochs=8,
            learning_rate=0.02,
            backbone_lr_scale=1.0,
            freeze_batch_norm=False,
            precision="fp32",
        ),
    )


def test_scan_orders_give_every_number_once_in_scan_order() -> None:
    maps = torch.arange(2 * 3 * 4 * 2 * 5).reshape(2, 3, 4, 2, 5)  # [B, T, D, h, w]
    parts = {name: reading.steps(maps) for name, reading in SCAN_ORDERS.items()}
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        "none": (2, 3, 4, 2, 5),
        "rows": (2, 6, 4, 1, 5),
        "columns": (2, 15, 4, 2, 1),
        "patches": (2, 30, 4, 1, 1),
    }
    for b, t in np.ndindex(2, 3):
        for row, column in np.ndindex(2, 5):
            place = maps[b, t, :, row, column]
            assert torch.equal(parts["rows"][b, 2 * t + row, :, 0, column], place)
            assert torch.equal(parts["columns"][b, 5 * t + column, :, row, 0], place)
            assert torch.equal(parts["patches"][b, 10 * t + 5 * row + column, :, 0, 0], place)


@pytest.mark.parametrize("read", [name for name in SCAN_ORDERS if name != "none"])
@pytest.mark.parametrize("name", TEMPORAL_HEADS)
def test_every_head_reads_parts_and_a_video_frame_by_frame_as_a_whole(name: str, read: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="tiny", weights="none", scan=read, heads=(name,), hidden_channels=4, readout="mean")  # type: ignore[arg-type]
    model = Recognizer(config, 3, input_size_px=32).eval()
    assert (name in MAP_HEADS) == model.temporal.reads_maps
    with torch.no_grad():
        features = model.embed(torch.randn(6, 3, 32, 32)).unflatten(0, (2, 3))
        whole, _ = model.score(features)
        assert whole.shape == (2, 3, 3)
        state, steps = None, []
        for frame in features.split(1, dim=1):
            scores, state = model.score(frame, state)
            steps.append(scores)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-6, rtol=1e-5)


def test_a_gru_that_reads_rows_is_torchs_gru_on_flat_rows() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="pixels", weights="none", feature_norm="none", scan="rows", heads=("gru",), hidden_channels=5
    )
    model = Recognizer(config, 2, input_size_px=8).eval()
    gru = nn.GRU(24, 5, batch_first=True)
    gru.load_state_dict(model.temporal.heads[0].layer.state_dict())  # type: ignore[attr-defined]
    pictures = torch.randn(3, 3, 8, 8)
    rows = torch.stack([pictures[:, :, row].flatten(1) for row in range(8)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(pictures.unsqueeze(1)), model.classifier(gru(rows)[0][:, -1]))


def test_a_convgru_that_reads_rows_convolves_along_them() -> None:
    head = build_temporal(3, ModelConfig(scan="rows", heads=("convgru",), kernel_size=5, hidden_channels=4))
    assert head.heads[0].input_conv.kernel_size == (1, 5)  # type: ignore[attr-defined]
    assert head(torch.randn(2, 3, 3, 1, 7))[0].shape == (2, 3, 4, 1, 7)


def test_whitened_pictures_hardly_correlate() -> None:
    """Smooth noise, whose neighbours and colours are alike, comes out with variance 1 and little correlation."""
    torch.manual_seed(0)
    noise = torch.randn(64, 1, 34, 34) + 0.3 * torch.randn(64, 3, 34, 34)
    smooth = 10 * nn.functional.avg_pool2d(noise, 3, stride=1)
    stem = build_backbone("resnet9_whitened", "none").stages[0][0].train()  # type: ignore[index]
    channels = stem(smooth)[:, :12].movedim(1, 0).flatten(1)
    inputs = nn.functional.unfold(smooth, 2).movedim(1, 0).flatten(1)
    torch.testing.assert_close(channels.var(dim=1), torch.ones(12), atol=0.1, rtol=0.1)
    assert _largest_correlation(channels) < 0.2 < 0.7 < _largest_correlation(inputs)


def test_the_whitened_backbone_folds() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet9_whitened", "none")
    backbone.train()(torch.randn(8, 3, 32, 32))  # statistics that are not 0 and 1
    folded, x = fold_batch_norm(backbone.eval()), torch.randn(2, 3, 32, 32)
    assert backbone(x).shape == (2, 256, 3, 3)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 4  # of 7
    torch.testing.assert_close(folded(x), backbone(x), atol=1e-4, rtol=1e-4)


def _largest_correlation(rows: torch.Tensor) -> float:
    correlation = torch.corrcoef(rows)
    return float((correlation - torch.eye(len(correlation))).abs().max())


def test_shifts_are_windows_of_the_reflected_frame() -> None:
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (40, 2, 3, 8, 8), dtype=torch.uint8)
    config = Transform(fit_size_px=8, input_size_px=8, min_crop_area=1.0, crop_padding_px=2)
    shifted = shift_and_flip(frames, config)
    assert shifted.shape == frames.shape
    assert shifted.dtype == torch.uint8
    seen = set()
    for before, after in zip(frames.numpy(), shifted.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
        found = [
            (top, left, flipped)
            for top, left, flipped in np.ndindex(5, 5, 2)
            if np.array_equal(padded[..., top : top + 8, left : left + 8][..., :: -1 if flipped else 1], after)
        ]
        assert len(found) == 1  # the same for both frames of a clip
        seen.add(found[0])
    assert len({top for top, _, _ in seen}) == len({left for _, left, _ in seen}) == 5
    assert len({flipped for _, _, flipped in seen}) == 2


def test_cutout_blanks_one_square_of_each_clip() -> None:
    torch.manual_seed(0)
    blanked = blank_squares(torch.ones(30, 2, 3, 9, 9), 4)
    assert (blanked == blanked[:, :1, :1]).all()
    assert ((blanked == 0).sum(dim=(3, 4)) == 16).all()
    assert len(torch.unique(blanked.flatten(1), dim=0)) > 10


def test_a_folder_and_a_zip_of_it_are_the_same_pictures(pictures: Path, tmp_path: Path) -> None:
    archive = zip_of(pictures, tmp_path / "pictures.zip")
    batches = []
    for root in (pictures, archive):
        annotations = images_in(root)
        assert annotations.labels == ("above", "below")
        assert {part: len(rows) for part, rows in annotations.splits.items()} == {"train": 16, "test": 6}
        loader = make_loader(
            annotations.splits["test"], annotations.labels, experiment_on(root, tmp_path).clips, fixed_clips
        )
        batches += list(loader)[:1]
    first, second = batches
    assert isinstance(first, ClipBatch)
    assert isinstance(second, ClipBatch)
    assert torch.equal(first.frames, second.frames)
    expected = cv2.imread(str(pictures / "test" / "above" / "0.png"))[:, :, ::-1]
    fitted = first.frames[0, 0].permute(1, 2, 0).float().mean(dim=(1, 2))  # [3, 16, 16] -> mean of each row
    assert fitted[:6].mean() == pytest.approx(expected[:8].mean(), abs=8)
    assert fitted[-6:].mean() == pytest.approx(expected[-8:].mean(), abs=8)


def test_published_cifar10_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        classes = ("cat", "dog")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert download
            self.targets = [1, 0, 1] if train else [0]
            self.data = np.full((len(self.targets), 32, 32, 3), len(self.targets), np.uint8)

    monkeypatch.setattr("pipeline.datasets.images.CIFAR10", Small)
    data = DataConfig(format="cifar10", root=str(tmp_path))
    annotations = read_annotations(data)
    assert [row.name for row in annotations.splits["train"]] == [
        "train/cat/00001",
        "train/dog/00000",
        "train/dog/00002",
    ]
    assert (PicturesOfCifar10(tmp_path).read("test/cat/00000") == 1).all()


def test_pictures_are_learned_stored_and_predicted(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: only where the bright half lies tells the classes apart, and a GRU that reads rows finds it."""
    experiment = experiment_on(pictures, tmp_path / "runs", bidirectional=True, readout="mean")
    result = train(experiment, quiet=True)
    model = load_model_file(result.model_path)
    rows = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed).test
    for mirror in (False, True):
        assert evaluate_model(model, rows, experiment.data, mirror=mirror).top1 == 1.0
    picture = pictures / "test" / "below" / "0.png"
    answers = tmp_path / "answers.json"
    assert main(["predict", str(result.model_path), str(picture.parent), "--json", str(answers), "--quiet"]) == 0
    videos = json.loads(answers.read_text())["videos"]
    assert [video["segments"][0]["label"] for video in videos] == ["below"] * 3
    assert main(["evaluate", str(result.model_path), "--mirror", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == 1.0


def test_a_bad_picture_is_named_and_counts_as_wrong(pictures: Path, tmp_path: Path) -> None:
    bad = pictures / "test" / "above" / "0.png"
    bad.write_bytes(bad.read_bytes()[:200])
    experiment = experiment_on(pictures, tmp_path)
    model = load_model_file(train(replace(experiment, training=replace(experiment.training, epochs=1))).model_path)
    rows = images_in(pictures).splits["test"]
    evaluation = evaluate_model(model, rows, experiment.data)
    (error,) = [result.error for result in evaluation.results if result.error]
    assert "damaged picture" in error
    assert evaluation.num_videos == 6


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["deflate", "bzip2", "lzma"]
)
def test_a_damaged_member_of_a_zip_is_one_bad_picture(pictures: Path, tmp_path: Path, method: int) -> None:
    """Its compressed bytes are noise: zlib, bz2 and lzma each have an error of their own for that."""
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w", method) as packed:
        for file in sorted(pictures.rglob("*.png")):
            packed.write(file, file.relative_to(pictures))
    with zipfile.ZipFile(archive) as packed:
        member = packed.getinfo("train/above/0.png")
    content = bytearray(archive.read_bytes())
    start = member.header_offset + 30 + len(member.filename)
    content[start + 6 : start + member.compress_size] = np.random.default_rng(0).bytes(member.compress_size - 6)
    archive.write_bytes(content)
    experiment = experiment_on(archive, tmp_path / "runs")
    data = replace(experiment.data, max_bad_fraction=0.1)
    train(replace(experiment, data=data, training=replace(experiment.training, epochs=1)), quiet=True)
    (line,) = (experiment.run_dir / "bad_videos.csv").read_text().splitlines()[1:]
    assert "train/above/0.png" in line
    assert "cannot be read from the archive" in line


def zip_with(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return path


@pytest.mark.parametrize("name", ["../evil/1.png", "cat/../../1.png", "/etc/1.png", "..\\evil\\1.png"])
def test_a_member_that_leads_out_of_its_archive_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="leads out of the archive"):
        images_in(zip_with(tmp_path / "x.zip", ["cat/1.png", "dog/1.png", name]))


@pytest.mark.parametrize(
    ("names", "labels", "note"),
    [
        (["cat\\1.png", "dog\\1.png"], {"all": {"cat", "dog"}}, ""),
        (["./cat/1.png", "./dog/1.png"], {"all": {"cat", "dog"}}, ""),
        (["all/cat/1.png", "all/dog/1.png"], {"all": {"cat", "dog"}}, "everything is in the folder all"),
        (["x/Train/cat/1.png", "x/Test/dog/1.png"], {"train": {"cat"}, "test": {"dog"}}, "is in the folder x"),
        (["train/cat/1.png", "more/cat/1.png"], {"train": {"cat"}}, "beside train are not read. 1: more (1 file)"),
        (["cat/1.png", "dog/1.png", "__MACOSX/cat/._1.png", ".git/x/1.png"], {"all": {"cat", "dog"}}, ""),
        (["cat/1.png", "dog/1.png", "cat/2.heic"], {"all": {"cat", "dog"}}, "kinds that are not read. 1: cat/2.heic"),
    ],
)  # fmt: skip
def test_archives_of_many_programs(tmp_path: Path, names: list[str], labels: dict[str, set[str]], note: str) -> None:
    found = images_in(zip_with(tmp_path / "x.zip", names))
    assert {part: {row.label for row in rows} for part, rows in found.splits.items()} == labels
    assert note in " ".join(found.notes)
    assert len(found.notes) == bool(note)


def test_a_model_of_pictures_knows_them_in_a_folder_and_in_a_zip(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = experiment_on(pictures, tmp_path / "runs")
    result = train(replace(experiment, training=replace(experiment.training, epochs=1)), quiet=True)
    archive = zip_of(pictures, tmp_path / "pictures.zip")
    words = ["--data.root", str(archive), "--split", "all", "--quiet"]
    assert main(["evaluate", str(result.model_path), *words]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["num_videos"], summary["num_left_out"]) == (6, 16)


def test_pictures_are_refused_where_they_are_no_videos_or_too_large(pictures: Path, tmp_path: Path) -> None:
    picture = pictures / "test" / "above" / "0.png"
    with pytest.raises(DecodeError, match="single picture"):
        VideoOpener(DecodeConfig()).open(picture)
    with VideoOpener(DecodeConfig(), opens_pictures=True).open(picture) as reader:
        (frame,) = [frame for frame, _ in reader.stream_at([0.0, 1.0])]
        assert np.array_equal(frame.permute(1, 2, 0).numpy(), cv2.imread(str(picture))[:, :, ::-1])
    with pytest.raises(DecodeError, match=r"24x20, and decode.max_pixels allows 100"):
        VideoOpener(DecodeConfig(max_pixels=100), opens_pictures=True).open(picture)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(DecodeError, match="no picture of a known kind"):
        VideoOpener(DecodeConfig(), opens_pictures=True).open(text)


@pytest.mark.parametrize("side", [16, 20, 48])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_picture_is_decoded_once_and_fitted_alike(pictures: Path, tmp_path: Path, side: int, fit: str) -> None:
    experiment = experiment_on(pictures, tmp_path)
    transform = replace(experiment.transform, fit=fit, fit_size_px=side)
    row = images_in(pictures).splits["train"][0]
    decoded = torch.from_numpy(cv2.imread(str(row.path))[..., ::-1].copy()).permute(2, 0, 1).unsqueeze(0)
    clips = PictureClips(open_folder_or_zip(pictures, DecodeConfig()), pictures, transform)
    first = clips.clips(row, lambda grid: [list(grid)])
    row.path.unlink()
    again = clips.clips(row, lambda grid: [list(grid)])
    assert torch.equal(first, again)
    assert torch.equal(first[0], fit_frames(decoded, transform))


def test_what_is_wrong_with_the_pictures_is_said(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        images_in(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture found"):
        images_in(tmp_path / "empty")
    (pictures / "train" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"outside a class folder. 1: train/0.png"):
        images_in(pictures)
    (tmp_path / "no.zip").write_text("no archive")
    with pytest.raises(UserError, match="cannot be read as a zip archive"):
        images_in(tmp_path / "no.zip")
    with pytest.raises(UserError, match="are pictures, which are kept in memory"):
        read_annotations(DataConfig(format="images", root=str(pictures), cache="frames"))
    with pytest.raises(UserError, match=r"set transform\.min_crop_area 1"):
        Transform(crop_padding_px=2)


def test_a_memory_of_parts_is_not_shown(motion_root: Path) -> None:
    model = small_model(scan="rows", heads=("gru",))
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    with open_video(video) as reader, pytest.raises(UserError, match="reads each frame by its rows"):
        remember(model, reader)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_picture_in_an_archive_is_a_bad_file(pictures: Path, tmp_path: Path, method: int) -> None:
    """A byte changed anywhere in the first member, of each kind of compression: its pixels, or a ``DecodeError``."""
    source, whole = next(pictures.rglob("*.png")), tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w", method) as archive:
        archive.write(source, "train/above/0.png")
    content = whole.read_bytes()
    end = content.index(b"PK\x01\x02")  # of the member; then comes the directory
    expected = open_folder_or_zip(whole, DecodeConfig()).read("train/above/0.png")
    num_refused = 0
    for place in range(0, end, 5):
        damaged = tmp_path / "damaged.zip"
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            picture = open_folder_or_zip(damaged, DecodeConfig()).read("train/above/0.png")
            assert np.array_equal(picture, expected)
        except DecodeError:
            num_refused += 1
    assert num_refused > 0.8 * len(range(60, end, 5))
