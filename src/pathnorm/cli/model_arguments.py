"""Arguments of the verbs that read a trained network and data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pathnorm.cli.arguments import count, numbers, size

if TYPE_CHECKING:
    from torch import nn

    from pathnorm.deep.images import ImageOptions

__all__ = ["add_model", "add_reading", "read_data", "read_model"]


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add which network and which data."""
    parser.add_argument("factory", metavar="FACTORY", help="package.module:callable or file.py:callable")
    parser.add_argument(
        "--weights", metavar="W", required=True, help="a safetensors file, or a state dict of torch.save"
    )
    parser.add_argument(
        "--data",
        metavar="D",
        required=True,
        help=".npy or .npz (file.npz:key), folder of images, or package.module:callable giving a DataLoader",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how layers are left out and how the data are read."""
    parser.add_argument("--skip", metavar="NAME", nargs="+", action="extend", default=[], help="layers to leave alone")
    parser.add_argument("--samples", metavar="N", type=count, help="use the first N samples only")
    parser.add_argument("--batch-size", metavar="B", type=count, default=128)
    images = parser.add_argument_group("for a folder of images")
    images.add_argument("--image-size", metavar="HxW", type=size, help="resize to this height and width")
    images.add_argument("--mean", metavar="M,M,M", type=numbers, help="subtracted after scaling to [0, 1]")
    images.add_argument("--std", metavar="S,S,S", type=numbers, help="divided by afterwards")


def read_model(arguments: argparse.Namespace) -> nn.Module:
    """Return the network with its weights."""
    from pathnorm.deep import sources

    return sources.load_model(arguments.factory, arguments.weights)


def read_data(arguments: argparse.Namespace) -> Any:
    """Return the data, an array or a loader."""
    from pathnorm.deep import sources

    return sources.load_data(arguments.data, images=_image_options(arguments), limit=arguments.samples)


def _image_options(arguments: argparse.Namespace) -> ImageOptions | None:
    from pathnorm.deep.images import ImageOptions

    if arguments.image_size is None and arguments.mean is None and arguments.std is None:
        return None
    channels = len(arguments.mean or arguments.std or (0, 0, 0))
    return ImageOptions(
        size=arguments.image_size,
        mean=arguments.mean or (0.0,) * channels,
        std=arguments.std or (1.0,) * channels,
    )
