"""What tests share: drawn weights and pictures, narrow networks, files laid out like released ones, and scripts that tests run
in processes of their own."""

from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]  # of the checkout
GOLDEN = ROOT / "tests" / "golden"
