"""Ray: the scheduler is an actor, each device (or several) is an actor, and so is each worker of a sweep.

The only folder that imports Ray, and only within functions: importing it costs nothing.
"""
