"""Fourier transforms on cells with large programming errors: part 2 of the tutorial that CrossSim 3.2 comes with.

A complex matrix A is a crossbar of 2N × 2N, [[Re A, -Im A], [Im A, Re A]], whose four parts are written one by one, and
so is its inverse; both products, A·X and X·A, read the same cells. Nothing is converted or clipped.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor

from analogsim import AnalogLinear, HardwareProfile, program, register
from analogsim.chip import CellModel, Draws
from analogsim.chip.cell_models import Standard

SMALL, SIZE = 64, 256
IMAGE = "orchid.jpg"  # applications/dsp/example_images/ of CrossSim
Matrix = np.ndarray[Any, Any]


@register
class ExactReference(Standard, CellModel):
    """Cells of an array with one reference column, without errors: CrossSim subtracts weights' offset digitally."""

    name = "exact-reference"

    def program(self, target: Tensor, profile: HardwareProfile, draws: Draws) -> Tensor:
        """Return what the standard model does, but for the array's last bit line."""
        written = super().program(target, profile, draws)
        written[-1] = target[-1]
        return written


@dataclass(frozen=True)
class Row:
    """A number that the tutorial prints.

    Attributes
    ----------
    title : str
    published : float
    what : str
        "weights": mean |error| of a matrix's weights; "image": of the pixels of an image, transformed and back.
    alpha : float
        Error of a cell, fraction of its conductance.
    ratio : float
        On to off, of conductances.
    profile : dict
        What differs from 8-bit weights in differential cells.
    """

    title: str
    published: float
    what: str
    alpha: float
    ratio: float = 1000
    profile: dict[str, Any] = field(default_factory=dict)

    def hardware(self) -> HardwareProfile:
        """Return the row's cells."""
        g_min = 1 / self.ratio
        given = {"weight": {"bits": 8}, "cells": {"mapping": "differential"}} | self.profile
        if given["cells"]["mapping"] == "offset":  # of 2^8 levels the lowest is left out, so that one of them is 0
            g_min = 1 - (1 - g_min) * 254 / 255
        return HardwareProfile(
            name=self.title,
            tile={"rows": 2 * SIZE, "cols": None},
            weight={"w_max": "tensor"} | given["weight"],
            cells={"g_min": g_min} | given["cells"],
            programming={"sigma": [0.0, self.alpha]},
        )


OFFSET = {"cells": {"mapping": "offset", "model": ExactReference.name}}
ONE = {"weight": {"bits": 9}}
FOUR = ONE | {"cells": {"mapping": "differential", "bits": 2}}
ROWS = {
    row.title: row
    for row in (
        Row("weights of DFT-64, errors of 25 %, pairs", 0.21637, "weights", 0.25),
        Row("weights of DFT-64, errors of 25 %, offset", 0.34244, "weights", 0.25, profile=OFFSET),
        Row("image by DFT-256, errors of 15 %, pairs", 0.08355, "image", 0.15),
        Row("image by DFT-256, errors of 15 %, offset", 0.14456, "image", 0.15, profile=OFFSET),
        Row("image by DFT-256, errors of 15 %, on/off 4, pairs", 0.11186, "image", 0.15, 4),
        Row("image by DFT-256, errors of 15 %, on/off 4, offset", 0.19570, "image", 0.15, 4, OFFSET),
        Row("image by DFT-256, errors of 15 %, 9-bit weights, one slice", 0.08336, "image", 0.15, profile=ONE),
        Row("image by DFT-256, errors of 15 %, 9-bit weights, four slices", 0.06327, "image", 0.15, profile=FOUR),
    )
}


def image(folder: Path) -> Matrix:
    """Return the picture that the tutorial transforms, (256, 256, 3), in [0, 1]."""
    with Image.open(folder / IMAGE) as file:
        return np.asarray(file.resize((SIZE, SIZE)), dtype=np.float64) / 255


def written(matrix: Matrix, profile: HardwareProfile, chip: int) -> Matrix:
    """Return the 2N × 2N matrix that a chip's cells hold of a complex one, read by unit vectors."""
    whole = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
    layer = AnalogLinear(len(whole), len(whole), bias=False, profile=profile).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(whole))
        program(layer, chip)
        return layer(torch.eye(len(whole))).T.double().numpy()


def right(held: Matrix, x: Matrix) -> Matrix:
    """Return A·X, from inputs [Re X, Im X] at the rows."""
    both = held @ np.vstack([x.real, x.imag])
    return both[: len(both) // 2] + 1j * both[len(both) // 2 :]


def left(x: Matrix, held: Matrix) -> Matrix:
    """Return X·A, from inputs [Im X, Re X] at the columns of the same cells."""
    both = np.hstack([x.imag, x.real]) @ held
    half = both.shape[1] // 2
    return both[:, half:] + 1j * both[:, :half]


def error(row: Row, picture: Matrix, chip: int) -> float:
    """Return the mean absolute error that the tutorial prints, of one chip."""
    profile, count = row.hardware(), SMALL if row.what == "weights" else SIZE
    matrix = scipy.linalg.dft(count)
    held = written(matrix, profile, 2 * chip)
    if row.what == "weights":
        return float(np.abs(held[:count, :count] + 1j * held[count:, :count] - matrix).mean())
    back = written(matrix.conj().T, profile, 2 * chip + 1)
    channels = []
    for channel in np.moveaxis(picture, -1, 0):
        spectrum = left(right(held, channel), held)
        channels.append(left(right(back, spectrum), back).real / count**2)
    return float(np.abs(np.stack(channels, -1).clip(0, 1) - picture).mean())
