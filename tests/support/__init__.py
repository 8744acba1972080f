"""What tests of several folders need: things to test with, and servers to test on."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
