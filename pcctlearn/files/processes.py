"""Identify processes of this machine by pid and start time, as pids are used again."""

import os

import psutil

_SAME_START_s = 2.0  # tolerance, since the system clock may be adjusted


def own_process() -> str:
    """The pid and start time of this process, as one word that identifies it on this machine."""
    return f"{os.getpid()}.{int(psutil.Process().create_time())}"


def is_alive(process: str) -> bool:
    """Whether the process of this machine that ``own_process`` named still runs."""
    pid, _, start = process.partition(".")
    try:
        found = psutil.Process(int(pid))
        dead = found.status() == psutil.STATUS_ZOMBIE
        return not dead and abs(found.create_time() - float(start)) <= _SAME_START_s
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError):
        return False
