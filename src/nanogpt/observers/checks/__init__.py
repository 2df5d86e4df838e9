"""What can be wrong inside a network, one file for each kind: functions Case -> findings, all pure numpy."""
