"""Options of the commands: how to run and where to write. The settings of an experiment are in ``config``."""

from pipeline.options.labelling import LabelOptions
from pipeline.options.models import (
    BackbonesOptions,
    ConvertOptions,
    DemoOptions,
    DiagnoseOptions,
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    LearnOptions,
    PushOptions,
    ReportOptions,
    ScoreOptions,
    TrainOptions,
    TuneTimelineOptions,
)
from pipeline.options.videos import (
    CheckOptions,
    DoctorOptions,
    PredictOptions,
    ShardOptions,
    WebcamOptions,
    name_sources,
)

__all__ = [
    "BackbonesOptions",
    "CheckOptions",
    "ConvertOptions",
    "DemoOptions",
    "DiagnoseOptions",
    "DoctorOptions",
    "EvaluateOptions",
    "ExplainOptions",
    "ExportOptions",
    "LabelOptions",
    "LearnOptions",
    "PredictOptions",
    "PushOptions",
    "ReportOptions",
    "ScoreOptions",
    "ShardOptions",
    "TrainOptions",
    "TuneTimelineOptions",
    "WebcamOptions",
    "name_sources",
]
