"""A training command that prints the time 20 times a second until it is told to stop. Standard
library only."""

import os
import sys
import time

if sys.argv[-1] == "--version":
    print("ticker 1.0")
    sys.exit()
while not os.path.exists("stop.json"):
    os.write(1, f"tick {time.time():.6f}\n".encode())
    time.sleep(0.05)
sys.exit(17)
