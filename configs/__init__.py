"""Settings that ship with the package: `hadrl fit --config NAME` finds them from any directory."""
