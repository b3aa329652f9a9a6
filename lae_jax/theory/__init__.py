"""The theory, needing no training: landscape, Hessian, bounds, continuous time, local rates."""
