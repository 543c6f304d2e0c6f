"""Pictures of every shipped device, and of docs/your_chip.md's, as `analogsim profile validate --plot` draws them."""

import re
import tempfile
from pathlib import Path

import typer

from analogsim import HardwareProfile, presets, style
from analogsim.analysis.device_picture import draw_device, panels

from .common import IMAGES, ROOT

FOLDER = IMAGES / "devices"


def main() -> None:
    """Draw all presets that are chips, one picture each, and the chip that the page makes up."""
    for name in presets():
        profile = HardwareProfile.load(name)
        if profile.needs_chip and panels(profile):
            draw(profile, FOLDER / f"{name}.png")
    page = (ROOT / "docs" / "your_chip.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in re.findall(r"`(\w+\.(?:csv|yaml))`(?:(?!```).)*?```\w+\n(.+?)```", page, re.DOTALL):
            Path(folder, name).write_text(text, encoding="utf-8")
        draw(HardwareProfile.load(Path(folder, "chip.yaml")), IMAGES / "firefly.png")


def draw(profile: HardwareProfile, path: Path) -> None:
    """Write one picture."""
    with style.picture(path, dpi=90) as figure:
        draw_device(profile, figure)


if __name__ == "__main__":
    typer.run(main)
