"""How good a policy is: in closed loop, and on held-out episodes."""
