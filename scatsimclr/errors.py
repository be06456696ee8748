"""The one exception that means "the user can fix this": it ends a command with exit status 2 and one line."""

LONGEST = 300  # characters of a message


class UserError(ValueError):
    """A mistake in a setting, an argument or an input file, described in one line that names it.

    Messages quote what they complain about, which may be of any length: line breaks become spaces, and of a long
    message the middle is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(" ".join(message.split())))


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text of at most `longest` characters: of a longer one the beginning and the end."""
    if len(text) <= longest:
        return text
    head = (longest - 3) * 2 // 3
    return f"{text[:head]} … {text[len(text) - (longest - 3 - head) :]}"
