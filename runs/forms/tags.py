"""Tags in a text field."""


def split_tags(text: str) -> list[str]:
    """Return the tags of a text field, separated by commas."""
    return [tag.strip() for tag in text.split(",") if tag.strip()]
