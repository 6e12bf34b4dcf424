"""jrobust: how bad can a function get over a set of inputs, and who says so?"""
