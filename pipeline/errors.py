"""What a user can mend: such an error ends a command in its message, any other in a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Names the file, the value and what would be right; every module's own errors are kinds of it."""
