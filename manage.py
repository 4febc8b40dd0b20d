#!/usr/bin/env python
"""Django's command line."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    # What the system writes is for the account that runs it: database, key, runs. Programs started
    # from here inherit it.
    os.umask(0o077)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
    execute_from_command_line(sys.argv)
