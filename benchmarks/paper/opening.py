"""README's opening picture: `python -m benchmarks.paper.opening` draws it from the long study of LeNet-5."""

import typer

from analogsim import style
from analogsim.study.store import Store
from analogsim.study.variants import load_variants

from .. import findings
from ..common import IMAGES

PICTURE = IMAGES / "opening.png"
CURVES = {
    "float": "trained without noise",
    "noisy training, fixed σ, σ=1": "one network, trained under σ = 1",
    findings.MATCHED_NOISE: "a network for each σ, trained under it",
}
"""Variants of the study, and what they are called in the picture."""


def main() -> None:
    """Draw the three curves, each as far as the study has it."""
    known = {variant.name: variant for variant in load_variants(Store(findings.PAPER / findings.LONG))}
    with style.picture(PICTURE, (8, 4.6)) as figure:
        axes = figure.subplots()
        for name, label in CURVES.items():
            curve = known[name].curve
            if curve is None:
                raise SystemExit(f"{name}: not run yet in {findings.LONG}")
            curve.plot(axes, label=label)
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    typer.run(main)
