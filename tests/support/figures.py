"""What a figure says."""


def words(figure):
    """Everything that the axes of a figure say about what they show."""
    parts = [(ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) for ax in figure.axes]
    return " | ".join(word for part in parts for word in part if word)
