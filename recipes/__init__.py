"""What was done with the released models, as commands: predict, export. Run from a checkout: `python -m recipes.predict`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
