class GovernorOf:
    """The governor of an origin, for tests.

    Parameters
    ----------
    most : int
        Requests that are asked of the origin at once at most.
    """

    def __init__(self, most: int = 64) -> None: ...
    def answered(self, first_byte: float = 0.001) -> None:
        """Count an answer whose first byte took so many seconds."""

    def throttled(
        self, begun: float, in_flight: int, pause: float, now: float, longest: float = 20
    ) -> None:
        """Count a request that met a limit."""

    def failed(self, now: float) -> None:
        """Count a failure."""

    def asked(self, budget: float = 0.05, now: float = 0) -> bool:
        """Count a request that went out; whether the next one has to wait."""

    def hedge(self) -> bool:
        """Take a hedge out of the budget, False where there is none."""

    def room(self, in_flight: int, now: float) -> int:
        """How many more requests may go out."""

    def give_back(self) -> None:
        """Put a hedge back into the budget."""

    def hedges_at(self, begun: float, floor: float) -> float:
        """When a request that was begun then may be hedged, 0.0 where none may."""
