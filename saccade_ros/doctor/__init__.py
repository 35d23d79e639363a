"""`saccade doctor`: what this machine can run, and what to install for what is missing."""
