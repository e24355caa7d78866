"""The precision that ``auto`` chooses, and the memory of a step, reckoned before the first."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment, ModelConfig, TrainingConfig
from pipeline.errors import UserError
from pipeline.training import memory, precision
from pipeline.training.module import ClipClassifier
from tests.small import small_experiment

CONFIGS = Path(__file__).parents[2] / "configs"
CPU = torch.device("cpu")


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with matrix units, whatever this one has."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


def settled(experiment: Experiment, device: torch.device = CPU) -> tuple[str, str]:
    training = replace(experiment.training, freeze_batch_norm=False)
    experiment = replace(experiment, model=replace(experiment.model, weights="none"), training=training)
    recognizer = ClipClassifier(experiment, 2).recognizer
    experiment, said = precision.settle_precision(experiment, recognizer, device)
    return experiment.training.precision, said


@pytest.fixture
def zen4(amx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AMD processor with bf16 in its vector units."""
    capabilities = {"amx_bf16": False, "avx512_bf16": True, "cpu_name": "AMD EPYC"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


CHOICES = {  # config -> with matrix units, with AMD's vector units
    "ceiling": ("fp32", "fp32"),
    "cifar10_cnn_gru": ("fp32", "fp32"),
    "cifar10_rows_gru": ("fp32", "bf16"),
    "cifar10_small_gru": ("bf16", "bf16"),
    "folder": ("fp32", "fp32"),
    "folder --training.backbone_lr_scale 0": ("fp32", "bf16"),
    "hmdb51": ("fp32", "fp32"),
    "motion": ("bf16", "bf16"),
    "motion_timeline": ("bf16", "bf16"),
    "motion_timeline --model.hidden_channels 128": ("bf16", "bf16"),
    "motion_two_shapes --model.hidden_channels 256": ("bf16", "bf16"),
    "ucf101_convgru": ("fp32", "fp32"),
    "ucf101_gru": ("bf16", "bf16"),
}


def check_choice(words: str, expected: str) -> None:
    config, *settings = words.split()
    chosen, said = settled(read_experiment(CONFIGS / f"{config}.yaml", settings))
    assert chosen == expected
    assert said.startswith(f"training.precision auto: {expected} (")


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("words", CHOICES)
def test_a_processor_with_matrix_units_uses_them_where_the_benchmark_gained(words: str) -> None:
    check_choice(words, CHOICES[words][0])


@pytest.mark.usefixtures("zen4")
@pytest.mark.parametrize("words", CHOICES)
def test_a_processor_with_vector_units_uses_them_where_the_benchmark_gained(words: str) -> None:
    check_choice(words, CHOICES[words][1])


@pytest.mark.usefixtures("zen4")
@pytest.mark.parametrize(
    ("limit", "expected"), [("AVX512_CORE", "fp32"), ("AVX2", "fp32"), ("AVX512_CORE_BF16", "bf16")]
)
def test_a_limit_may_take_the_vector_units_away(limit: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert settled(read_experiment(CONFIGS / "motion.yaml"))[0] == expected


@pytest.mark.usefixtures("zen4")
def test_vector_units_that_are_not_faster_in_bf16_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"})
    assert settled(read_experiment(CONFIGS / "motion.yaml"))[0] == "fp32"


@pytest.mark.usefixtures("amx")
def test_without_fast_heads_there_is_no_winograd_to_wait_for() -> None:
    experiment = read_experiment(CONFIGS / "folder.yaml", ["--training.backbone_lr_scale", "0"])
    assert settled(experiment)[0] == "fp32"
    assert settled(replace(experiment, machine=replace(experiment.machine, fast_heads=False)))[0] == "bf16"


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("limit", ["AVX2", "avx512_core_bf16", "AVX512_CORE"])
def test_without_matrix_units_it_is_fp32(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = read_experiment(CONFIGS / "motion.yaml")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX")
    assert settled(experiment)[0] == "bf16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert settled(experiment)[0] == "fp32"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert settled(experiment)[0] == "fp32"


def test_an_explicit_bf16_is_kept_and_warned_of_where_it_is_ruinous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small_experiment(tmp_path, tmp_path, precision="bf16")
    monkeypatch.setattr(precision, "_lacks_bf16", lambda: True)
    chosen, said = settled(experiment)
    assert chosen == "bf16"
    assert "57 times" in said
    assert "training.precision auto" in said
    assert settled(small_experiment(tmp_path, tmp_path, precision="fp32")) == ("fp32", "")
    monkeypatch.setattr(precision, "_lacks_bf16", lambda: False)
    assert settled(experiment) == ("bf16", "")


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_uses_bf16_where_it_has_it(
    has_bf16: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    experiment = small_experiment(tmp_path, tmp_path, precision="auto")
    assert settled(experiment, torch.device("cuda"))[0] == expected
    assert settled(experiment, torch.device("mps"))[0] == "fp32"


def module_of(model: ModelConfig, **training: Any) -> ClipClassifier:
    training = {"backbone_lr_scale": 1.0, "freeze_batch_norm": False, **training}
    return ClipClassifier(replace(Experiment(), model=model, training=TrainingConfig(**training)), 2)


def test_the_memory_of_a_step_is_what_its_backbone_keeps() -> None:
    """Against what autograd holds in a real forward pass of one clip."""
    module = module_of(ModelConfig(backbone="tiny", weights="none", heads=("gru",), hidden_channels=8))
    side, frames = module.experiment.transform.input_size_px, module.experiment.sampling.num_frames
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = module.recognizer(torch.randn(1, frames, 3, side, side))
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    reckoned = memory.step_memory(module, "fp32")
    assert scores.shape == (1, 2)
    assert held < reckoned.clip_bytes < 2 * held  # the rest are gradients on their way
    assert memory.step_memory(module, "bf16").clip_bytes < 0.7 * reckoned.clip_bytes
    assert reckoned.of(4) - reckoned.of(3) == reckoned.clip_bytes


def test_frozen_stages_keep_nothing_and_fewer_frames_keep_less() -> None:
    model = ModelConfig(backbone="tiny", weights="none", heads=("gru",), hidden_channels=8)
    whole = memory.step_memory(module_of(model), "fp32").clip_bytes
    assert memory.step_memory(module_of(model, backbone_lr_scale=0.0), "fp32").clip_bytes < 0.7 * whole
    assert memory.step_memory(module_of(model, train_frames=4), "fp32").clip_bytes == pytest.approx(whole / 4, rel=0.01)


def test_a_step_that_cannot_fit_is_refused_with_settings_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(ModelConfig(backbone="tiny", weights="none", heads=("gru",), hidden_channels=8))
    needs = memory.step_memory(module, "fp32")
    assert module.experiment.data.batch_size == 16
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: math.ceil(needs.of(16) / 0.9))
    memory.check_step_fits(module, "fp32")
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: math.ceil(needs.of(10) / 0.9))
    with pytest.raises(UserError, match=r"data\.batch_size 8 and training\.accumulate_batches 2"):
        memory.check_step_fits(module, "fp32")
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: needs.of(0))
    with pytest.raises(UserError, match=r"sampling\.num_frames"):
        memory.check_step_fits(module, "fp32")
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: None)
    memory.check_step_fits(module, "fp32")


def test_a_full_gpu_is_told_with_the_cure() -> None:
    experiment = Experiment()
    with (
        pytest.raises(UserError, match=r"data\.batch_size 8 and training\.accumulate_batches 2"),
        memory.gpu_memory_errors(experiment),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
