"""How weights start: each parameter has a role, and a scheme is a rule for each role."""
