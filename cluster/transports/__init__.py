"""How the scheduler reaches its devices: in this process, in processes of this host, or as Ray actors."""
