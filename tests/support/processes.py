"""Two processes of torch.distributed, each of which runs a text of Python and says that it is done."""

import subprocess
import sys


def two_processes(code, folder):
    """Run the text twice, with its rank and the file where both meet as arguments; each prints "done" at its end."""
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen([*command, str(number), str(folder / "store")], stdout=-1, stderr=-1, text=True)
        for number in range(2)
    ]
    for one in both:
        out, error = one.communicate(timeout=240)
        assert out.strip() == "done", error
