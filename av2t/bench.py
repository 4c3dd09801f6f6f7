"""`av2t bench`: how right and how fast a model version is on composed clips."""

import argparse
import json
import time
from pathlib import Path

DESCRIPTION = """\
Measure a model version on clips with known masks, as `av2t compose` makes them.

IoU is the mean over all keyframes at which something sounds; "false masks" is the share of the others that got a mask
all the same. The time is that of decoding and predicting, without loading the model.

  av2t compose clips --cutouts cutouts --clips 20
  av2t bench clips
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("clips", type=Path, metavar="DIR", help="folder with NNN.mp4 and NNN/masks")
    parser.add_argument("--model", default="tiny", help="a model version or a preset (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    import numpy as np
    from PIL import Image
    from tqdm import tqdm

    from av2t_core.errors import AV2TError
    from av2t_core.media import Clip
    from av2t_core.metrics import mask_iou
    from av2t_core.predictor import Predictor

    paths = [path for path in sorted(args.clips.glob("*.mp4")) if (path.with_suffix("") / "masks").is_dir()]
    if not paths:
        raise AV2TError(f"{args.clips} holds no composed clips; `av2t compose {args.clips} --cutouts DIR` makes some")
    predictor = Predictor.load(args.model, args.device)
    ious: list[float] = []
    false_masks: list[bool] = []
    seconds = 0.0
    for path in tqdm(paths, "clips", disable=None):
        began = time.perf_counter()
        with Clip(path) as clip:
            masks = [prediction.mask for prediction in predictor.predict(clip.windows())]
        seconds += time.perf_counter() - began
        for mask, known in zip(masks, sorted((path.with_suffix("") / "masks").glob("*.png")), strict=True):
            truth = np.asarray(Image.open(known)) > 127
            if truth.any():
                ious.append(mask_iou(mask, truth))
            else:
                false_masks.append(bool(mask.any()))
    keyframes = len(ious) + len(false_masks)
    numbers = {
        "model_version": predictor.model_version,
        "clips": len(paths),
        "keyframes": keyframes,
        "iou_sounding": round(float(np.mean(ious)), 4) if ious else None,
        "false_masks": round(float(np.mean(false_masks)), 4) if false_masks else None,
        "seconds_per_keyframe": round(seconds / keyframes, 4),
    }
    if args.json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name.replace('_', ' '):22}{'-' if value is None else value}")
    return 0
