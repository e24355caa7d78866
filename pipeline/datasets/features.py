"""Features of a frozen backbone: each grid frame of each video embedded once, then heads train on slices of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.videos import BadVideo, ChooseClips, Sample, SampleKey

Embed = Callable[[Tensor], Tensor]  # uint8 [N, 3, S, S] -> features [N, D, ...]


class FeatureDataset(Dataset[Sample]):
    """Samples as ``VideoDataset`` gives them, of features instead of frames.

    Args:
        rows: the videos.
        labels: class names.
        experiment: seed and sampling settings.
        choose: which clips of a video make its sample.
        features: of each row float16 ``[G, D, ...]``, one for each of its grid frames, or why there are none.
    """

    def __init__(
        self,
        rows: Sequence[VideoRow],
        labels: Sequence[str],
        experiment: Experiment,
        choose: ChooseClips,
        features: Sequence[Tensor | BadVideo],
    ) -> None:
        self.labels = [labels.index(row.label) for row in rows]
        self.experiment, self.choose, self.features = experiment, choose, features

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: SampleKey) -> Sample:
        features = self.features[key.row]
        if isinstance(features, BadVideo):
            return Sample(key.row, self.labels[key.row], None, features)
        clips = self.choose(range(len(features)), key, self.experiment)
        return Sample(key.row, self.labels[key.row], torch.stack([features[clip] for clip in clips]).float())


@torch.inference_mode()
def embed_grid(frames: Tensor, embed: Embed, frames_per_call: int = 128) -> Tensor:
    """uint8 grid frames ``[G, 3, S, S]`` -> float16 features ``[G, D, ...]``, in bounded memory."""
    return torch.cat([embed(part).half().cpu() for part in frames.split(frames_per_call)])
