"""Holds a lock as MSAL4J's persistence extension does: says "held" when it has it, and leaves when its standard input ends.

    hold_lock_as_java.py LOCKFILE
"""
import fcntl
import os
import socket
import sys

path = sys.argv[1]
with open(path, "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write(f"{os.getpid()} {socket.gethostname()}")
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
os.remove(path)
