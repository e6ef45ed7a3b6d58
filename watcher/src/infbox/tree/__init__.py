"""Source trees: which files of one may enter a prompt, and what git says about them."""
