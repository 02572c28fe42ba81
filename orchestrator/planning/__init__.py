"""Model-predictive control with a world model: solvers, goal costs and the control loop."""
