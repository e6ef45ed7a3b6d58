"""What the gateway answers by itself: its own state, the models and the workspaces."""
