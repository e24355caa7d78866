"""Train a model on a folder of videos, one folder a class, from Python.

    python examples/train.py my_videos --name mine

The backbone is frozen and its features are kept, so that epochs take seconds. The model is in runs/mine.
"""

import argparse
import sys

from pipeline import Experiment, UserError, train
from pipeline.config import DataConfig, ModelConfig, TrainingConfig


def main(videos: str, name: str, epochs: int) -> None:
    """Trains and prints the figures."""
    experiment = Experiment(
        name=name,
        data=DataConfig(format="folder", root=videos, cache="features"),
        model=ModelConfig(heads=("gru",), hidden_channels=64),
        training=TrainingConfig(epochs=epochs, backbone_lr_scale=0),
    )
    result = train(experiment, quiet=True)
    for figure, value in result.metrics.items():
        print(f"{figure}: {value:.4g}")
    print(result.model_path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a model on a folder of videos, one folder a class.")
    parser.add_argument("videos")
    parser.add_argument("--name", default="mine")
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    try:
        main(args.videos, args.name, args.epochs)
    except UserError as error:
        sys.exit(f"error: {error}")
