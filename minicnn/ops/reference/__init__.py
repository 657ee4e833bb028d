"""The ops in NumPy, to be read: each file opens with its equations, and each value is followed by
its gradient. They are the text of the course and the yardstick of the compiled ops in `ops.fast`.
"""
