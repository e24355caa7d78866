"""Scores of a video from a file that ``clipgru export`` wrote, with onnxruntime, numpy and PyAV: no torch, no clipgru.

    python examples/predict_onnx.py model.clip.onnx video.mp4

Prints a JSON object a window, with the scores that ``clipgru predict`` gives. docs/model_files.md tells each rule.
"""

import argparse
import json

import av
import numpy as np
import onnxruntime


def resize(image, size):
    """uint8 ``[H, ...]`` -> ``[size, ...]``: a triangle filter in whole numbers, wider where the picture shrinks."""
    scale = len(image) / size
    centers = scale * (np.arange(size)[:, None] + 0.5)
    weights = np.maximum(1 - np.abs(np.arange(len(image)) + 0.5 - centers) / max(scale, 1), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = max(bits for bits in range(1, 23) if int(weights.max() * 2**bits + 0.5) < 2**15)
    sums = np.floor(weights * 2**bits + 0.5) @ image.reshape(len(image), -1)
    return np.floor(sums / 2**bits + 0.5).clip(0, 255).astype(np.uint8).reshape(size, *image.shape[1:])


def fit(image, size, how):
    """uint8 RGB ``[H, W, 3]`` -> ``[3, size, size]``: columns first, then rows; ``crop`` keeps the shape."""
    height, width = image.shape[:2]
    longer = int(size * max(height, width) / min(height, width)) if how == "crop" else size
    rows, columns = (size, longer) if height <= width else (longer, size)
    fitted = resize(resize(image.transpose(1, 0, 2), columns).transpose(1, 0, 2), rows)
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    return fitted[top : top + size, left : left + size].transpose(2, 0, 1)


def main(model, video):
    """Prints the scores of each window."""
    session = onnxruntime.InferenceSession(model)
    said = json.loads(session.get_modelmeta().custom_metadata_map["clipgru"])
    sampling, transform, threshold = said["sampling"], said["transform"], said["calibration"]["unknown_threshold"]
    fps, num_frames = sampling["sample_fps"], sampling["num_frames"] + said["lookback_frames"]
    with av.open(video) as container:
        shown = [(frame.time, frame.to_ndarray(format="rgb24"), frame) for frame in container.decode(video=0)]
    times = np.array([time - shown[0][0] for time, _, _ in shown])
    end = times[-1] + shown[-1][2].duration * shown[-1][2].time_base
    seconds = np.arange(np.ceil(end * fps - 1e-6)) / fps
    grid = [int(place) - 1 for place in np.searchsorted(times, seconds + 1e-6, side="right")]
    grid += grid[-1:] * (num_frames - len(grid))  # short_video: hold_last
    fitted = {place: fit(shown[place][1], transform["fit_size_px"], transform["fit"]) for place in sorted(set(grid))}
    last = len(grid) - num_frames
    for start in [*range(0, last, max(1, sampling["num_frames"] // 4)), last]:
        clip = np.stack([fitted[place] for place in grid[start : start + num_frames]])
        (scores,), (knownness,) = session.run(["scores", "knownness"], {"frames": clip[None]})
        unknown = threshold is not None and bool(knownness < threshold)
        line = {"start_seconds": start / fps, "scores": dict(zip(said["labels"], scores.tolist(), strict=True))}
        print(json.dumps(line | {"is_unknown": unknown}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Scores of a video from an ONNX clip file of clipgru export.")
    parser.add_argument("model", type=argparse.FileType("rb"), help="for example model.clip.onnx")
    parser.add_argument("video", type=argparse.FileType("rb"), help="a video file")
    args = parser.parse_args()
    main(args.model.name, args.video.name)
