"""Options that several commands have, and how their values are read."""

import argparse
from pathlib import Path

DEMO_CLIPS = Path(__file__).with_name("demo_clips")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model that a command runs: the fields `model`, `device` and `precision` of Settings."""
    parser.add_argument("--model", metavar="NAME", help="preset or model version (AV2T_MODEL; default: tiny)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (AV2T_DEVICE; default: auto)")
    parser.add_argument("--precision", help="auto, fp32 or bf16 (AV2T_PRECISION; default: auto)")


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, 0 or more")
    return value


def positive(text: str) -> float:
    if not (value := number(text)):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value
