"""JPEG data in, what libjpeg says of it out. It says so on standard error, without the file's name, and decodes on."""

import os
import sys
import tempfile
from contextlib import contextmanager

SIGNS = "Corrupt JPEG", "Premature end of JPEG", "Invalid SOS", "Inconsistent progression"  # its lines begin so


@contextmanager
def overheard():
    """A context that keeps libjpeg's lines from standard error. Its value is a list that has them after the context's end.

    Everything else that is written meanwhile appears at the end. The file descriptor is the whole process's, so one such
    context may be open at a time.
    """
    lines: list[str] = []
    if sys.stderr:
        sys.stderr.flush()
    try:
        descriptor = os.dup(2)
    except OSError:  # there is no standard error
        yield lines
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield lines
        finally:
            if sys.stderr:
                sys.stderr.flush()
            os.dup2(descriptor, 2)
            os.close(descriptor)
            kept.seek(0)
            for line in kept:
                if line.decode(errors="replace").startswith(SIGNS):
                    lines.append(line.decode(errors="replace").strip())
                else:
                    os.write(2, line)
