"""The training program, held at a moment that a test names (``holder.py`` tells what a moment is).

    python -I -u held_trainer.py <folder> <moment> train --config manifest.yaml

The program is the real one. The project's folder stays off the path: `datasets` is Hugging Face's
in here.
"""

import os
import runpy
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    folder, moment = sys.argv[1:3]
    del sys.argv[1:3]
    sys.addaudithook(runpy.run_path(os.path.join(HERE, "holder.py"))["Holder"](folder, moment))
    launcher = os.path.join(os.path.dirname(HERE), "trainer", "launch.py")
    sys.argv[0] = launcher
    runpy.run_path(launcher, run_name="__main__")
