"""Every setting, with its meaning.

These dataclasses are the command line (``--stage.key value``), the YAML files in ``configs/`` and the text of
``--help``. They live below every stage, so that help needs none of the packages the stages need.
"""

from pipeline.config.data import DataConfig, DecodeConfig, Normalization, SamplingConfig, TransformConfig
from pipeline.config.experiment import ClipSettings, Experiment
from pipeline.config.model import VIDEO_BACKBONES, MachineConfig, ModelConfig, TrainingConfig
from pipeline.config.requirement import require
from pipeline.config.running import DeliveryConfig, InferenceConfig, StreamingConfig, TimelineConfig, TimelineNumbers
from pipeline.config.sequence import BACKGROUND, UNLABELLED, SequenceConfig
from pipeline.config.text import read_settings, read_yaml, to_dict, to_yaml

__all__ = [
    "BACKGROUND",
    "UNLABELLED",
    "VIDEO_BACKBONES",
    "ClipSettings",
    "DataConfig",
    "DecodeConfig",
    "DeliveryConfig",
    "Experiment",
    "InferenceConfig",
    "MachineConfig",
    "ModelConfig",
    "Normalization",
    "SamplingConfig",
    "SequenceConfig",
    "StreamingConfig",
    "TimelineConfig",
    "TimelineNumbers",
    "TrainingConfig",
    "TransformConfig",
    "read_settings",
    "read_yaml",
    "require",
    "to_dict",
    "to_yaml",
]
