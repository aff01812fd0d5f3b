"""All that host and guest share: frames, links, the multiplexer, ports. Python 3.9, standard library only."""
