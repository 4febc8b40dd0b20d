"""The keeper, held at a moment that a test names (``launching.Hold`` starts it).

    python -I -S -X utf8 held_keeper.py <folder> <moment> <run folder> <lock descriptor>

The program is the real one; ``holder.py`` tells what a moment is. Forks are counted from the first
process on. Standard library only, as the keeper.
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from runs.keeper import program as keeper
from runs.tests.holder import Holder

if __name__ == "__main__":
    sys.addaudithook(Holder(os.path.abspath(sys.argv[1]), sys.argv[2]))
    sys.exit(keeper.main(sys.argv[3:]))
