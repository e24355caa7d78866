"""The recogniser: backbone, temporal heads and classifier, with a seam between frames and time.

``embed`` turns each frame into features once; ``score`` turns a sequence of features into class scores. Training
calls both on a clip; inference embeds each frame of a video once and scores as many windows or steps as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelConfig, TransformConfig
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.backbones import FILE_FEATURES, FileFeatures, build_backbone
from pipeline.models.scan_orders import SCAN_ORDERS
from pipeline.models.temporal.head import State
from pipeline.models.temporal.refinement import Refinement
from pipeline.models.temporal.stack import MAP_HEADS, add_noise, build_temporal, drop_features

# On a CPU a backbone is fastest when its largest maps stay in the caches: 4 frames of 224x224 a call took 8.9 ms each,
# 32 frames 11.9 (2 cores, efficientnet_lite0).
_PIXELS_A_CALL = 4 * 224 * 224


class _FeatureNorm(nn.BatchNorm1d):
    """Batch norm that, for one value a feature, which has no variance, takes the statistics known so far."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C]`` or ``[N, C, n]`` -> the same."""
        if not self.training or x.numel() > self.num_features:
            normalized: Tensor = super().forward(x)
            return normalized
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Recognizer(nn.Module):
    """Backbone + temporal heads + linear classifier.

    Args:
        config: the architecture.
        num_classes: K.
        load_weights: False leaves the backbone as initialised, for a caller that loads all weights itself.
        input_size_px: side of the frames, which decides how long the rows are that a head of vectors reads; a network
            of a fixed size is built for it.
        num_pictures: pictures of each frame (P), as ``transform.input`` makes them.
        input_frames: frames that a video network reads at once (n), whose pictures come together; 1 for others.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        *,
        load_weights: bool = True,
        input_size_px: int = TransformConfig.input_size_px,
        num_pictures: int = 1,
        input_frames: int = 1,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone: Backbone
        if config.backbone == FILE_FEATURES:
            if config.num_features is None:
                raise UserError("model.backbone features: set model.num_features to the numbers in a step of the files")
            self.backbone = FileFeatures(config.num_features)
        else:
            weights = config.weights if load_weights else "none"
            self.backbone = build_backbone(
                config.backbone,
                weights,
                config.num_stages,
                size_px=input_size_px,
                frame_vector=config.frame_vector,
                num_frames=input_frames,
            )
        self.num_features = num_pictures * self.backbone.num_features
        self.reads_maps = config.scan != "none" or config.heads[0] in MAP_HEADS
        self.temporal = build_temporal(self._num_inputs(input_size_px), config)
        # Published backbones end in features of very unequal scale; a recurrent head learns several times faster, and
        # better, from equal ones.
        self.feature_norm = _FeatureNorm(self.num_features) if config.feature_norm == "batch" else nn.Identity()
        num_outputs = self.temporal.num_outputs
        self.output_norm = _FeatureNorm(num_outputs) if config.classifier_batch_norm else nn.Identity()
        self.classifier = nn.Linear(num_outputs, num_classes)
        stages = [Refinement(num_classes, config) for _ in range(config.refinement_stages)]
        self.refinements: Sequence[Refinement] = nn.ModuleList(stages)  # type: ignore[assignment]

    def _num_inputs(self, input_size_px: int) -> int:
        """Features of a step, as the first temporal head reads it."""
        if self.config.scan == "none" or self.config.heads[0] in MAP_HEADS:
            return self.num_features
        maps = self.backbone.look(input_size_px)
        part = SCAN_ORDERS[self.config.scan].steps(maps.unsqueeze(0))  # [1, S, D, h', w']
        return self.num_features * part.shape[3] * part.shape[4]

    def embed(self, frames: Tensor, backbone: nn.Module | None = None) -> Tensor:
        """Normalised frames ``[N, 3 P n, H, W]`` -> features: maps ``[N, D, h, w]`` if they are read by parts or by
        a head of maps, else their mean over space ``[N, D]``. ``backbone``: another network that gives what ours
        gives."""
        backbone = self.backbone if backbone is None else backbone
        if torch.is_grad_enabled() or self.backbone.training or frames.device.type != "cpu":
            return self._embed(frames, backbone)
        num_at_once = max(1, _PIXELS_A_CALL // (self.backbone.num_frames * frames.shape[2] * frames.shape[3]))
        if len(frames) <= num_at_once:
            return self._embed(frames, backbone)
        return torch.cat([self._embed(some, backbone) for some in frames.split(num_at_once)])

    def _embed(self, frames: Tensor, backbone: nn.Module) -> Tensor:
        num_channels = 3 * self.backbone.num_frames
        num_pictures = frames.shape[1] // num_channels
        if self.config.rgb_diff_scale != 1:
            frames = torch.cat([frames[:, :-3], frames[:, -3:] * self.config.rgb_diff_scale], dim=1)
        frames = frames.reshape(-1, num_channels, *frames.shape[2:])  # [N, 3 P n, H, W] -> [N P, 3 n, H, W]
        features: Tensor = backbone(frames.contiguous(memory_format=torch.channels_last))
        if num_pictures > 1:
            # [N P, D, h, w] -> [N, P D, h, w]
            features = features.unflatten(0, (-1, num_pictures)).flatten(1, 2)
        return features if self.reads_maps else features.mean(dim=(2, 3))

    def score(self, features: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Features ``[B, T, D, ...]`` -> class scores after each step ``[B, T, K]`` (logits) and the state."""
        return self.score_projected(self.project(features), state)

    def project(self, features: Tensor, is_frame: Tensor | None = None) -> Tensor:
        """Features ``[B, T, D, ...]`` -> ``[B, T, ...]``: all that the temporal heads do with each frame alone. In
        training a batch norm measures the frames for which ``is_frame [B, T]`` is true; unset: all."""
        normalized = add_noise(self.normalize(features, is_frame), self.config.feature_noise, self.training)
        return normalized if self.config.scan != "none" else self.temporal.project(normalized)

    def score_projected(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The result of ``score``, from the output of ``project``."""
        stages, state = self.score_stages(projected, state)
        return stages[-1], state

    def score_stages(
        self, projected: Tensor, state: State = None, is_frame: Tensor | None = None
    ) -> tuple[list[Tensor], State]:
        """The scores of each stage, ``[B, T, K]`` each, from the output of ``project``: what the heads say, and what
        each refinement makes of it. The state is one of each head and of each refinement; ``is_frame`` as for
        ``project``."""
        num_heads = len(self.config.heads)
        states = (None,) * (num_heads + len(self.refinements)) if state is None else state
        outputs, state = self._recur(projected, None if state is None else states[:num_heads])
        scores = self._classify_steps(outputs, is_frame if self.config.scan == "none" else None)
        if self.config.scan != "none":
            # [B, T S, K] -> [B, T, S, K]; a frame's score is read out of its parts as a clip's is of its frames.
            return [self.read_out(scores.unflatten(1, (projected.shape[1], -1)), dim=2)], state
        stages, following = [scores], list(state)
        for refinement, before in zip(self.refinements, states[num_heads:], strict=True):
            scores, after = refinement(scores, before)
            stages.append(scores)
            following.append(after)
        return stages, tuple(following)

    def let_labels_overlap(self, may_overlap: bool) -> None:
        """Let the refinements read each label's probability by itself, or their distribution."""
        for refinement in self.refinements:
            refinement.may_overlap = may_overlap

    def forget(self, state: State, lanes: Tensor) -> State:
        """The state, begun anew for those of the batch whose ``lanes [B]`` are true."""
        num_heads = len(self.config.heads)
        kept = self.temporal.forget(state[:num_heads], lanes)
        pairs = zip(self.refinements, state[num_heads:], strict=True)
        return (*kept, *(refinement.forget(part, lanes) for refinement, part in pairs))

    def _classify_steps(self, outputs: Tensor, is_frame: Tensor | None = None) -> Tensor:
        """The last head's outputs ``[B, T, C, ...]`` -> class scores of each step ``[B, T, K]``."""
        if outputs.ndim == 5:
            outputs = outputs.mean(dim=(3, 4))  # [B, T, C, h, w] -> [B, T, C]
        outputs = _normed(self.output_norm, outputs.flatten(0, 1), is_frame).reshape(outputs.shape)
        scores: Tensor = self.classifier(drop_features(outputs, self.config.dropout, self.training))
        return scores

    def _recur(self, projected: Tensor, state: State) -> tuple[Tensor, State]:
        if self.config.scan == "none":
            return self.temporal.recur(projected, state)
        steps = SCAN_ORDERS[self.config.scan].steps(projected)
        outputs: tuple[Tensor, State] = self.temporal(steps if self.temporal.reads_maps else steps.flatten(2), state)
        return outputs

    def normalize(self, features: Tensor, is_frame: Tensor | None = None) -> Tensor:
        """Features ``[B, T, D, ...]`` as the temporal heads read them, of the same shape; ``is_frame`` as for
        ``project``."""
        batch, steps, channels = features.shape[:3]
        # [B, T, D, h, w] -> [B T, D, h w]; [B, T, D] -> [B T, D, 1]
        return _normed(self.feature_norm, features.reshape(batch * steps, channels, -1), is_frame).reshape(
            features.shape
        )

    def read_out(self, scores: Tensor, dim: int = 1) -> Tensor:
        """Scores after each step ``[B, T, K]`` -> scores of the clip ``[B, K]``."""
        return scores.select(dim, -1) if self.config.readout == "last" else scores.mean(dim=dim)

    def forward(self, clips: Tensor) -> Tensor:
        """Normalised clips ``[B, T, 3 P, H, W]`` -> logits ``[B, K]``."""
        features = self.embed(clips.flatten(0, 1))  # [B, T, 3 P, H, W] -> [B T, 3 P, H, W]
        return self.classify(features.reshape(*clips.shape[:2], *features.shape[1:]))

    def classify(self, features: Tensor) -> Tensor:
        """Features of clips ``[B, T, D, ...]`` -> logits ``[B, K]``."""
        if self.config.readout == "mean" or self.config.scan != "none" or self.refinements:
            return self.read_out(self.score(features)[0])
        outputs, _ = self._recur(self.project(features), None)
        return self._classify_steps(outputs[:, -1:]).squeeze(1)  # no other step is asked, or measured by output_norm


def _normed(norm: nn.Module, rows: Tensor, is_row: Tensor | None) -> Tensor:
    """``norm(rows)``, ``[N, D, ...]``; with ``is_row`` (bool, of N) of those rows alone, and 0 for the rest."""
    if is_row is None or not norm.training:
        normalized: Tensor = norm(rows)
        return normalized
    kept = is_row.flatten()
    found: Tensor = norm(rows[kept])
    return found.new_zeros(rows.shape).index_put((kept.nonzero()[:, 0],), found)
