"""A real offloading engine in plain torch, on the user's own machine: what an emulation of it is judged by."""
