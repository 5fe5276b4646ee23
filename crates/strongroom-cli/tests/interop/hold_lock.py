"""Holds the lock of msal-extensions: says "held" when it has it, and leaves when its standard input ends.

    hold_lock.py LOCKFILE
"""
import sys

from msal_extensions import CrossPlatLock

with CrossPlatLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
