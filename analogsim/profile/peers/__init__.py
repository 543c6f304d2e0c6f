"""What other simulators' configurations say, as profiles, and profiles as their configurations.

Each file translates one simulator's words. Nothing here imports a simulator, nor the profile, which asks for this.
"""

from .report import Translation

__all__ = ["Translation"]
