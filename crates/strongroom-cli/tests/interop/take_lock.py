"""Says "waiting", takes the lock of msal-extensions, says "entered", ends.

    take_lock.py LOCKFILE
"""
import sys

from msal_extensions import CrossPlatLock

print("waiting", flush=True)
with CrossPlatLock(sys.argv[1]):
    print("entered", flush=True)
