"""The schemas of config files, and how they are read: strictly, with one sentence for what is wrong."""
