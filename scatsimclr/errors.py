"""The one exception for mistakes that the user can fix: it ends a command with exit status 2 and one line."""


class UserError(ValueError):
    """A mistake in a setting, an argument or an input file, described in one line that names it."""
