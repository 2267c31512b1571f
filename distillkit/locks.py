"""Locks on files that the operating system releases when their process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

from distillkit.files import OWNER

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer, such as some NFS and FUSE ones."""

_logger = logging.getLogger(__name__)


def file_lock(path: Path) -> BaseFileLock:
    """A lock that the operating system releases when the process ends; a link at its path is not followed.

    On a file system without locks it is a second file beside `path`, with a warning: one that a crashed machine left
    has to be deleted.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            owner = path.with_name(f"{path.name}{OWNER}")
            _logger.warning("%s: this file system has no locks (%s); using the file %s", path, error.strerror, owner)
            return SoftFileLock(owner)
        # Any other error means that it is locked, or comes again.
    finally:
        os.close(handle)
    return FileLock(path)
