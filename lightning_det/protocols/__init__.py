"""What detectors, selectors and planners get and give: the types that meet at the seams."""
