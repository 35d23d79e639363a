"""Text in figures."""


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is: what stands between two dollar signs would be read as a formula."""
    return text.replace("$", r"\$")
