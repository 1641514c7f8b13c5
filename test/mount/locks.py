#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One step of a lock test, for locks.sh: locks.py STEP FILE [ARGS...]. Prints what came of it."""
import errno
import fcntl
import os
import signal
import struct
import sys
import time

OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38


def flock_struct(kind, start, length):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def ofd(fd, command, kind, start, length):
    try:
        got = fcntl.fcntl(fd, command, flock_struct(kind, start, length))
    except OSError as e:
        return errno.errorcode[e.errno]
    return struct.unpack("hhqqi4x", got)[0] if command == OFD_GETLK else "ok"


def wait_for_stdin():
    """Tells the script that we stand where we should, and stands until it says go."""
    print("ready", flush=True)
    sys.stdin.readline()


def hold(path, how, start="0", length="0"):
    """Holds a lock until told."""
    fd = os.open(path, os.O_RDWR)
    if how == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX)
    elif how == "posix":
        fcntl.lockf(fd, fcntl.LOCK_EX, int(length), int(start))
    else:
        assert ofd(fd, OFD_SETLK, fcntl.F_WRLCK, int(start), int(length)) == "ok"
    wait_for_stdin()


def probe(path, how, start="0", length="0"):
    """Is a lock free?"""
    fd = os.open(path, os.O_RDWR)
    try:
        if how == "flock":
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("free")
        elif how == "posix":
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, int(length), int(start))
            print("free")
        else:
            r = ofd(fd, OFD_SETLK, fcntl.F_WRLCK, int(start), int(length))
            print("free" if r == "ok" else r)
    except OSError as e:
        print(errno.errorcode[e.errno])


def read_lock(path, start):
    """A read lock of one byte, as QEMU takes it, on a descriptor that only reads."""
    print(ofd(os.open(path, os.O_RDONLY), OFD_SETLK, fcntl.F_RDLCK, int(start), 1))


def held(path, start, length):
    """Does another hold a lock there? Takes none itself."""
    fd = os.open(path, os.O_RDONLY)
    got = ofd(fd, OFD_GETLK, fcntl.F_WRLCK, int(start), int(length))
    print("free" if got == fcntl.F_UNLCK else "held")


def wait(path, how):
    """Waits for a lock."""
    fd = os.open(path, os.O_RDWR)
    print("waiting", flush=True)
    if how == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX)
    elif how == "posix":
        fcntl.lockf(fd, fcntl.LOCK_EX)
    else:
        ofd(fd, OFD_SETLKW, fcntl.F_WRLCK, 0, 0)
    print("got it", flush=True)


def interrupted(path, how):
    """Waits for a lock, and is interrupted by a signal: EINTR, at once."""

    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    fd = os.open(path, os.O_RDWR)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    before = time.monotonic()
    try:
        fcntl.flock(fd, fcntl.LOCK_EX) if how == "flock" else fcntl.lockf(fd, fcntl.LOCK_EX)
    except Alarm:
        print("interrupted" if time.monotonic() - before < 5 else "late")
        return
    print("got it")


def close_rules(path):
    """POSIX locks go with any close of the file, OFD and flock locks with the last of the handle."""
    other = os.open(path, os.O_RDWR)
    a, b = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    fcntl.lockf(a, fcntl.LOCK_EX, 10, 0)
    print("posix", ofd(other, OFD_SETLK, fcntl.F_WRLCK, 0, 10))
    os.close(b)
    print("posix after a close", ofd(other, OFD_SETLK, fcntl.F_WRLCK, 0, 10))
    print("unlock", ofd(other, OFD_SETLK, fcntl.F_UNLCK, 0, 10))
    copy = os.dup(a)
    print("ofd", ofd(a, OFD_SETLK, fcntl.F_WRLCK, 100, 10))
    os.close(a)
    print("getlk", ofd(other, OFD_GETLK, fcntl.F_WRLCK, 0, 0) == fcntl.F_WRLCK)
    print("getlk own", ofd(copy, OFD_GETLK, fcntl.F_WRLCK, 0, 0) == fcntl.F_UNLCK)
    print("ofd after a close of a copy", ofd(other, OFD_SETLK, fcntl.F_WRLCK, 100, 10))
    os.close(copy)
    end = time.monotonic() + 5
    r = "EAGAIN"
    while r == "EAGAIN" and time.monotonic() < end:  # RELEASE comes a little after close
        r = ofd(other, OFD_SETLK, fcntl.F_WRLCK, 100, 10)
    print("ofd after the last close", r)
    print("shared", ofd(other, OFD_SETLK, fcntl.F_RDLCK, 0, 50))
    reader = os.open(path, os.O_RDONLY)
    print("shared too", ofd(reader, OFD_SETLK, fcntl.F_RDLCK, 0, 50))
    print("exclusive for a reader", ofd(reader, OFD_SETLK, fcntl.F_WRLCK, 0, 50))
    print("upgrade", ofd(other, OFD_SETLK, fcntl.F_WRLCK, 0, 50))
    print("to the end", ofd(other, OFD_SETLK, fcntl.F_WRLCK, 1 << 40, 0))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
