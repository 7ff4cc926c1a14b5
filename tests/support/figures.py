"""The words in a figure."""


def words(figure):
    """Labels and titles of all axes of a figure."""
    parts = [(ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) for ax in figure.axes]
    return " | ".join(word for part in parts for word in part if word)
