"""`python -m analogsim` is the command `analogsim`."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="analogsim")
