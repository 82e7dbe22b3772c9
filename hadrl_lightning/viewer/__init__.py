"""An episode as a picture that moves."""
