"""How weights are changed: optimizers, groups of parameters, schedules."""
