"""The campaign `vdd torture`: real nodes under faults, watched by a judge that trusts none.

`judge.py` decides what was wrong, from messages alone; `rig.py` is the robot's side of a node
under test; `faults.py` says what a fault is, and the files beside it are the faults; `campaign.py`
runs them in a seeded order and counts.
"""
