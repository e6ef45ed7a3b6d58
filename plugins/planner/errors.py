"""What the planner raises."""


class PlanError(ValueError):
    """Input that nothing can be planned from; the message names it and says what to do."""
