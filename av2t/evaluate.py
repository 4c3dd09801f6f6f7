"""`av2t evaluate`: how right a model version is on composed clips."""

import argparse
import json
from pathlib import Path

from av2t.console import progress_bar
from av2t_core.errors import AV2TError
from av2t_core.versions import resolve
from worker.settings import Settings

DESCRIPTION = """\
Measure how right a model version is on clips with known masks, as `av2t compose` makes them.

IoU is the mean over all keyframes at which something sounds; "false masks" is the share of the others that got a mask
all the same. `av2t bench` measures how fast it is.

  av2t compose clips --cutouts cutouts --clips 20
  av2t evaluate clips
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder with NNN.mp4 and NNN/masks")
    parser.add_argument("--model", metavar="NAME", help="preset or model version (AV2T_MODEL; default: tiny)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (AV2T_DEVICE; default: auto)")
    parser.add_argument("--precision", help="auto, fp32 or bf16 (AV2T_PRECISION; default: auto)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    # A mistake in the model's name, or missing weights, should not wait for what takes seconds to import.
    settings = Settings.load(model=args.model, device=args.device, precision=args.precision)
    resolve(settings.model, settings.models_dir).check()
    import numpy as np
    from PIL import Image

    from av2t_core.media import Clip
    from av2t_core.metrics import mask_iou
    from av2t_core.predictor import Predictor

    paths = [path for path in sorted(args.clips.glob("*.mp4")) if (path.with_suffix("") / "masks").is_dir()]
    if not paths:
        raise AV2TError(f"{args.clips} holds no composed clips; `av2t compose {args.clips} --cutouts DIR` makes some")
    predictor = Predictor.load(
        settings.model, settings.device, models_dir=settings.models_dir, precision=settings.precision
    )
    ious: list[float] = []
    false_masks: list[bool] = []
    with progress_bar("evaluating", len(paths), "clips") as bar:
        for path in paths:
            with Clip(path) as clip:
                masks = [prediction.mask for prediction in predictor.predict(clip.windows())]
            for mask, known in zip(masks, sorted((path.with_suffix("") / "masks").glob("*.png")), strict=True):
                truth = np.asarray(Image.open(known)) > 127
                if truth.any():
                    ious.append(mask_iou(mask, truth))
                else:
                    false_masks.append(bool(mask.any()))
            bar.update()
    numbers = {
        "model_version": predictor.model_version,
        "clips": len(paths),
        "keyframes": len(ious) + len(false_masks),
        "iou_sounding": round(float(np.mean(ious)), 4) if ious else None,
        "false_masks": round(float(np.mean(false_masks)), 4) if false_masks else None,
    }
    if args.json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name.replace('_', ' '):22}{'-' if value is None else value}")
    return 0
